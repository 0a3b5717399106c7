"""From answers and marks to maps, and what is told of them."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus.annotate.answers import AnswerFolder
from focus.annotate.command import annotate, checked_data
from focus.annotate.maps import annotation_lines, captions
from focus.config.command_line import parse
from focus.config.data import AnnotateConfig, CheckConfig
from focus.config.train import TrainConfig
from focus.data.check.report import check
from focus.data.known_images import digest_of
from focus.data.manifest import LABEL_NAMES, Manifest, Sample
from focus.data.readers import read_given
from focus.errors import InputError
from focus.evaluation.people import Answer, read_answers

from .serving import write_faces

SIDE = 64


class Answered:
    """Faces and answers, as by a session at the page."""

    def __init__(self, tmp_path: Path, *data: str) -> None:
        self.output = tmp_path / "human_maps"
        self.words = [*data, "--output", str(self.output), "--maps", "--practice", "0"]
        self.faces = list(checked_data(self.config()))
        self.output.mkdir()
        self.folder = AnswerFolder(self.output, self.faces, [])
        self.shown = 0

    def config(self, *words: str) -> AnnotateConfig:
        return parse(AnnotateConfig, [*self.words, *words])

    def face(self, ending: str) -> Sample:
        (face,) = [face for face in self.faces if face.path.endswith(ending)]
        return face

    def say(self, ending: str, who: str, right: bool, box: tuple[int, ...] | None = None) -> None:
        face = self.face(ending)
        answer = LABEL_NAMES[face.label if right else 1 - face.label]  # type: ignore[operator]
        self.shown += 1
        mark_path = self.folder.mark_of(who, digest_of(face), "main") if box else ""
        mark = Image.new("L", (SIDE, SIDE)) if box else None
        if mark and box:
            mark.paste(255, box)  # type: ignore[arg-type]
        fields = (
            digest_of(face),
            face.path,
            who,
            "main",
            answer,
            3,
            4.0,
            self.shown,
            mark_path,
            "",
        )
        self.folder.add(Answer(*fields), mark)

    def maps(self, *words: str) -> dict[str, Any]:
        annotate(self.config(*words))
        people: dict[str, Any] = json.loads((self.output / "people.json").read_text())
        return people

    def written(self) -> set[str]:
        maps_folder = self.output / "maps"
        return {str(path.relative_to(maps_folder)) for path in maps_folder.rglob("*.png")}


@pytest.fixture
def answered(tmp_path: Path) -> Answered:
    made = Answered(tmp_path, str(write_faces(tmp_path / "faces", 4)))
    left_half, middle = (0, 0, 32, 64), (16, 0, 48, 64)
    made.say("A/1_fake/0.png", "anna", True, left_half)
    made.say("A/1_fake/0.png", "Ben B.", True, middle)
    made.say("A/1_fake/0.png", "cleo", False, (0, 0, 64, 64))
    made.say("A/1_fake/1.png", "anna", False, left_half)
    made.say("A/0_real/0.png", "anna", True)
    made.say("A/0_real/1.png", "anna", True, middle)
    made.say("A/0_real/1.png", "Ben B.", False, middle)
    made.say("B/1_fake/0.png", "anna", True, left_half)
    made.say("B/1_fake/0.png", "Ben B.", True, left_half)
    return made


def test_a_map_is_the_mean_of_those_who_were_right(answered: Answered) -> None:
    people = answered.maps()
    both, one = "A/1_fake/0.png", "A/0_real/1.png"
    assert answered.written() == {both, one, "B/1_fake/0.png"}
    with Image.open(answered.output / "maps" / both) as image:
        assert (image.mode, image.size) == ("L", (SIDE, SIDE))
        row = np.asarray(image)[10]
    assert row[[0, 15, 16, 31, 32, 47, 48]].tolist() == [128, 128, 255, 255, 128, 128, 0]
    assert (people["n_answered"], people["n_maps"]) == (5, 3)
    # Of all annotators, one who marked everything and was wrong among them; then of three at least.
    answered.maps("--who", "all")
    assert answered.written() == {both, one, "A/1_fake/1.png", "B/1_fake/0.png"}
    with Image.open(answered.output / "maps" / both) as image:
        assert np.asarray(image)[10, [0, 20, 60]].tolist() == [170, 255, 85]
    answered.maps("--who", "all", "--min-annotators", "3")
    assert answered.written() == {both}, "those of an earlier call are gone"


def test_a_folder_without_maps_is_not_named_for_training(
    answered: Answered, capsys: pytest.CaptureFixture[str]
) -> None:
    """`focus train --human-maps` refused what was printed as made for it."""
    answered.maps()
    assert f"written: {answered.output}, for focus train --human-maps\n" in capsys.readouterr().out
    answered.maps("--min-annotators", "3")
    assert f"written: {answered.output}, without a map to train with\n" in capsys.readouterr().out


def test_what_is_told_of_people(answered: Answered) -> None:
    people = answered.maps()
    assert people["annotators"]["anna"]["accuracy"] == 4 / 5
    assert people["annotators"]["Ben B."]["n_marked"] == 3
    agreed = people["agreement"]
    assert agreed["n_images"] == 2
    assert agreed["iou"]["value"] == pytest.approx((1 / 3 + 1) / 2)
    by_generator = people["people"]["open"]["generators"]
    assert by_generator["B"]["people"]["apcer"] == 0
    assert by_generator["A"]["people"]["apcer"] == pytest.approx((1 / 3 + 1) / 2)
    with (answered.output / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert rows[0]["path"].endswith("A/0_real/1.png"), "one says real, one synthetic"
    assert rows[0]["said_synthetic"] == "0.5000"
    assert rows[1]["path"].endswith("A/1_fake/0.png"), "two of three"
    assert float(rows[1]["iou"]) == pytest.approx(1 / 3, abs=1e-3)
    assert all(row["answers"] == "0" for row in rows[5:])
    with Image.open(answered.output / "contact_sheet.png") as sheet:
        assert sheet.width > 3 * 2 * 160


def test_a_caption_says_how_many_answered_whatever_the_generator_is_called() -> None:
    answers = {"answers": "12", "said_synthetic": "0.7500"}
    long, alike = "stylegan3_t_ffhqu_1024", "stylegan3_t_ffhqu_x_1024"
    faces = [Sample("a.png", 1, long, extra=answers), Sample("b.png", 0, "", extra=answers)]
    faces += [Sample("c.png", None, "kA", extra=answers), Sample("d.png", 1, alike, extra=answers)]
    told = [caption.rpartition(": ") for caption in captions(faces)]
    assert {count for _, _, count in told} == {"9 of 12 say synthetic"}
    first, real, unlabelled, last = (name for name, _, _ in told)
    assert (real, unlabelled.split()[0]) == ("real", "unlabelled")
    assert first.startswith("synthetic ")
    assert first != last


def test_who_cannot_judge_is_left_out_and_counted(answered: Answered) -> None:
    """Also who changed her mind: the last answer makes the map."""
    before = answered.maps("--who", "all")
    face = answered.face("A/1_fake/0.png")
    for who in ("anna", "dora"):
        mended = int(who == "anna")
        mark_path = answered.folder.mark_of(who, digest_of(face), "main", mended)
        fields = (digest_of(face), face.path, who, "main", "cannot judge", 0, 4.0, 9, mark_path, "")
        answer = replace(Answer(*fields), mended=mended)  # type: ignore[arg-type]
        assert answered.folder.add(answer, Image.new("L", (SIDE, SIDE), 255))
    people = answered.maps("--who", "all")
    assert (people["n_answered"], people["n_cannot_judge"]) == (before["n_answered"], 2)
    with Image.open(answered.output / "maps" / "A/1_fake/0.png") as image:
        # Of Ben B. and cleo alone.
        assert np.asarray(image)[10, [0, 20, 60]].tolist() == [128, 255, 128]
    assert people["annotators"]["dora"]["accuracy"] is None
    assert people["annotators"]["anna"]["n_answers"] == before["annotators"]["anna"]["n_answers"]
    lines = annotation_lines(people)
    assert "2 answers say that the face cannot be judged: left out" in lines
    assert "dora: 1 faces, 4.0 s each" in lines
    with (answered.output / "manifest.csv").open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["path"] == face.path]
    assert (row["answers"], row["cannot_judge"], row["said_synthetic"]) == ("2", "2", "0.5000")


def test_a_face_that_is_there_twice_counts_once(answered: Answered, tmp_path: Path) -> None:
    before = answered.maps()
    shutil.copy(tmp_path / "faces/B/1_fake/0.png", tmp_path / "faces/B/1_fake/copy.png")
    assert answered.maps()["people"] == before["people"]


def test_training_and_the_check_take_the_maps(answered: Answered, tmp_path: Path) -> None:
    answered.maps()
    folder, maps = str(tmp_path / "faces"), str(answered.output)
    expected = {"A/1_fake/0.png", "A/0_real/1.png", "B/1_fake/0.png"}
    for words in (["--data", folder, "--human-maps", maps], ["--data", f"{maps}/manifest.csv"]):
        samples = read_given(parse(TrainConfig, words)).data
        mapped = {face.path: face.human_map for face in samples if face.human_map}
        assert {path.removeprefix(f"{folder}/") for path in mapped} == expected
        for path, map_path in mapped.items():
            assert map_path == f"{maps}/maps/{path.removeprefix(f'{folder}/')}"
    words = [folder, "--human-maps", maps, "--no-strict", "--output", str(tmp_path / "check")]
    check(parse(CheckConfig, words))
    counts = json.loads((tmp_path / "check" / "check.json").read_text())["maps"]
    assert (counts["maps"], counts["unmatched"], counts["unreadable"]) == (3, 0, 0)


def test_beside_the_faces_the_maps_are_found(tmp_path: Path) -> None:
    """As human_maps in the folder of faces; none of its pictures is taken for a face."""
    data = write_faces(tmp_path, 2)
    made = Answered(tmp_path, str(data))
    made.say("A/0_real/1.png", "anna", True, (0, 0, 9, 9))
    made.maps()
    samples = read_given(parse(TrainConfig, ["--data", str(data)])).data
    assert len(samples) == 6
    assert [face.path for face in samples if face.human_map] == [str(data / "A/0_real/1.png")]
    made.maps()
    with pytest.raises(InputError, match="would be taken for images"):
        annotate(
            parse(AnnotateConfig, [str(data), "--output", str(tmp_path / "A" / "out"), "--maps"])
        )


def test_of_a_table_and_of_faces_of_one_name(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "faces", 2)
    for name in ("one", "two"):
        lines = [f"{kind}/{n}.png,{kind[2:]}" for kind in ("A/0_real", "A/1_fake") for n in (0, 1)]
        root = tmp_path / name
        (root / "A").mkdir(parents=True)
        for kind in ("0_real", "1_fake"):
            (root / "A" / kind).mkdir()
            for n in (0, 1):
                pixels = np.asarray(Image.open(data / "A" / kind / f"{n}.png"))
                Image.fromarray(pixels[::-1] if name == "two" else pixels).save(
                    root / "A" / kind / f"{n}.png"
                )
        (root / "table.csv").write_text("\n".join(["path,label", *lines]))
    tables = [str(tmp_path / name / "table.csv") for name in ("one", "two")]
    made = Answered(tmp_path, *tables)
    assert len(made.faces) == 8
    for name in ("one", "two"):
        made.say(f"{name}/A/0_real/1.png", "anna", True, (0, 0, 9, 9))
    made.maps()
    manifest = Manifest.from_csv(made.output / "manifest.csv")
    mapped = {face.path: face.human_map for face in manifest if face.human_map}
    assert len({*mapped.values()}) == len(mapped) == 2
    samples = read_given(
        parse(TrainConfig, ["--data", tables[0], "--human-maps", str(made.output)])
    ).data
    assert [face.path for face in samples if face.human_map]


def test_no_name_takes_the_file_of_another(tmp_path: Path) -> None:
    made = Answered(tmp_path, str(write_faces(tmp_path / "faces", 1)))
    names = ["Anna B."]
    made.say("A/0_real/0.png", "Anna B.", True)
    (answer_file,) = (made.output / "answers").glob("*.csv")
    for name in (answer_file.stem, "Дима"):
        names.append(name)
        made.say("A/0_real/0.png", name, True)
    assert {answer.annotator for answer in read_answers(made.output)} == {*names}


def test_two_annotators_are_two_people(answered: Answered) -> None:
    """Not one who types her name in three ways, in answers of an earlier version."""
    table = answered.output / "answers" / "anna.csv"
    for name in ("Anna", "ANNA"):
        other = table.with_name(f"anna-{name}.csv")
        other.write_text(table.read_text().replace(",anna,", f",{name},"))
    people = answered.maps("--min-annotators", "2")
    assert answered.written() == {"A/1_fake/0.png", "B/1_fake/0.png"}
    assert [name.lower() for name in people["annotators"]] == ["anna", "ben b.", "cleo"]
    assert people["people"]["n_annotators"] == 3
    answered.maps("--min-annotators", "3")
    assert answered.written() == set()


def test_without_labels_nobody_is_right(tmp_path: Path) -> None:
    data = tmp_path / "plain"
    data.mkdir()
    for path in write_faces(tmp_path / "faces", 2).rglob("0_real/*.png"):
        path.rename(data / path.name)
    made = Answered(tmp_path, str(data))
    face = made.faces[0]
    mark_path = made.folder.mark_of("anna", digest_of(face), "main")
    fields = (digest_of(face), face.path, "anna", "main", "real", 3, 4.0, 1, mark_path, "")
    made.folder.add(Answer(*fields), Image.new("L", (SIDE, SIDE), 255))
    assert made.maps()["n_maps"] == 0
    people = made.maps("--who", "all")
    assert people["n_maps"] == 1
    assert people["annotators"]["anna"]["accuracy"] is None
