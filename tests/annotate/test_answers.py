"""That no answer is lost which was acknowledged: kills, two servers, full disks, no locks."""

import resource
import threading
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from focus.annotate.answers import AnswerFolder
from focus.data.known_images import CONTENT
from focus.data.manifest import Sample
from focus.evaluation.people import Answer, read_answers

from ..launching import disk_without_locks
from .serving import Served, mark, refusal, rows, serving, write_faces


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("data") / "faces")


class Row(NamedTuple):
    """What tells the rows of answers apart."""

    annotator: str
    image: str
    mended: int


def row_of(row: dict[str, str]) -> Row:
    return Row(row["annotator"], row["image"], int(row["mended"]))


class People(threading.Thread):
    """An annotator who answers, and mends, as fast as the server does, until that is gone."""

    def __init__(self, served: Served, name: str) -> None:
        super().__init__()
        self.served, self.name_typed = served, name
        self.acknowledged: list[Row] = []
        self.start()

    def run(self) -> None:
        try:
            state = self.served.state(self.name_typed)
            while state["question"]:
                for _ in range(2):  # the face, then the same one to mend what was said
                    question = state["question"]
                    status, state = self.served.answer(state, mark=mark())
                    if status != 200:
                        return
                    if state["counts"]:
                        row = Row(self.name_typed, question["id"], question["mended"])
                        self.acknowledged.append(row)
                    state = state | {"question": state["last"]}
                state = self.served.state(self.name_typed)
        except (OSError, HTTPException):  # the server was killed
            pass


@pytest.mark.slow
@pytest.mark.parametrize("locks", [True, False])
def test_kills_lose_no_answer(data: Path, tmp_path: Path, locks: bool) -> None:
    out, acknowledged = tmp_path / "out", list[Row]()
    environment = {} if locks else disk_without_locks(tmp_path / "site")
    for number in range(6):
        words = (data, "--output", out, "--practice", 0, "--repeat-every", 0)
        with serving(*words, **environment) as served:
            assert not [*out.rglob("*.part")], "what a kill left is gone"
            people = [People(served, f"{name}{number // 2}") for name in ("anna", "ben", "cleo")]
            while sum(len(person.acknowledged) for person in people) < 2 + number:
                assert any(person.is_alive() for person in people)
                people[0].join(0.01)
            served.process.kill()
            served.process.wait()
            for person in people:
                person.join()
                acknowledged += person.acknowledged
        written = [row_of(row) for row in rows(out)]
        assert {*acknowledged} <= {*written}
        assert len({*written}) == len(written)
    assert len(acknowledged) > 10, len(acknowledged)
    assert sum(row.mended for row in acknowledged) > 3
    answers = read_answers(out)
    counted = {(answer.annotator, answer.image): answer.mended for answer in answers}
    assert all(counted[row.annotator, row.image] >= row.mended for row in acknowledged)
    for answer in answers:
        with Image.open(out / answer.mark) as image:
            assert image.getbbox() == (8, 8, 24, 40)


@pytest.mark.slow
def test_two_servers_lose_no_answer(data: Path, tmp_path: Path) -> None:
    """Where the lock of the first was removed, or holds on its machine alone."""
    out = tmp_path / "out"
    words = (data, "--output", out, "--practice", 0, "--repeat-every", 0)
    with serving(*words) as one:
        (out / ".lock").unlink()
        with serving(*words) as two:
            servers, states = [one, two], [one.state(), two.state()]
            counted = []
            for turn in [0, 1] * 18:
                asked = states[turn]["question"]
                if not asked:
                    continue
                status, states[turn] = servers[turn].answer(states[turn], mark=mark())
                assert status == 200
                if states[turn]["counts"]:
                    counted.append(asked["id"])
            assert len({*counted}) == len(counted) == 18, "the first answer counts, wherever"
            # Both pages show the last answer; who mends it later has not seen what it is now.
            to_mend = [state | {"question": state["last"]} for state in (one.state(), two.state())]
            assert [
                server.answer(state, "synthetic", mark=mark())[1]["counts"]
                for server, state in zip(servers, to_mend, strict=True)
            ] == [True, False]
            # Of six real faces that were called so, and the synthetic one that was mended.
            assert "18 of 18 faces answered, 7 have a map" in one.stop()
            assert "18 of 18 faces answered, 7 have a map" in two.stop()
    *written, mended = rows(out)
    assert (mended["image"], mended["answer"], mended["mended"]) == (counted[-1], "synthetic", "1")
    assert [row["image"] for row in written] == counted
    assert [int(row["shown"]) for row in written] == [*range(1, 19)]


@pytest.mark.slow
def test_without_locks_the_second_server_is_refused(data: Path, tmp_path: Path) -> None:
    environment, out = disk_without_locks(tmp_path / "site"), tmp_path / "out"
    words = (data, "--output", out, "--practice", 0)
    with serving(*words, **environment) as served:
        served.answer(served.state())
        said = refusal(*words, **environment)
        assert f"The disk of {out} has no locks" in said
        assert f" process {served.process.pid} on " in said
        assert said.endswith(f"if it has ended, remove {out}/.writing.")
        assert "has no locks" in refusal(*words, "--maps", **environment)
        served.process.kill()
        served.process.wait()
    with serving(*words, **environment) as served:  # which sees that it has ended
        assert served.state()["done"] == 1
        served.stop()
    assert not (out / ".writing").exists()
    # Of another machine nobody can see whether it has ended: the way out is the one that is told.
    (out / ".writing").write_text("1\nanother-machine\n")
    said = refusal(*words, **environment)
    assert "process 1 on another-machine writes there" in said
    Path(said.removesuffix(".").rpartition(" remove ")[2]).unlink()
    with serving(*words, **environment) as served:
        assert served.state()["done"] == 1


@pytest.mark.slow
def test_a_full_disk_loses_no_answer(data: Path, tmp_path: Path) -> None:
    """By the limit of a file's size, which is met as a full disk is, also within a row."""
    out = tmp_path / "out"
    with serving(data, "--output", out, "--practice", 0) as served:
        state = served.answer(served.state())[1]
        table = out / "answers" / "anna.csv"
        before = table.read_bytes()
        unlimited = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
        for room in (0, 40):
            limit = len(before) + room
            resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (limit, unlimited[1]))
            status, text = served.answer(state)
            assert status == 507, text
            assert text in (
                "It cannot be written (File too large).",
                "It cannot be written (No space left on device).",
            )
            assert table.read_bytes() == before
            assert served.state() == {name: state[name] for name in served.state()}
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, unlimited)
        assert served.answer(state)[0] == 200
    assert len(rows(out)) == 2
    assert not list(out.rglob("*.part"))


FACES = [Sample(f"/{n}.png", label=0, extra={CONTENT: f"{n:032x}"}) for n in range(9)]


@pytest.fixture
def folder(tmp_path: Path) -> AnswerFolder:
    (tmp_path / "out").mkdir()
    return AnswerFolder(tmp_path / "out", FACES, [])


def said(number: int, who: str = "anna", **other: Any) -> Answer:
    said = {"round": "main", "answer": "real", "confidence": 1, "seconds": 1.0, "shown": 0}
    face = {"image": f"{number:032x}", "path": f"/{number}.png", "annotator": who}
    return Answer(**face | said | {"mark": "", "time": f"2026-01-01T00:0{number}"} | other)


def images(folder: AnswerFolder) -> list[int]:
    return [int(answer.image, 16) for answer in read_answers(folder.folder)]


def test_a_second_folder_reads_what_the_first_has_written(folder: AnswerFolder) -> None:
    other = AnswerFolder(folder.folder, FACES, [])
    assert folder.add(said(0, "Anna"), None)
    assert not other.add(said(0, "anna", answer="synthetic"), None)
    assert other.add(said(1, "ANNA"), None)
    assert folder.add(said(2), None)
    answers = read_answers(folder.folder)
    assert [(a.annotator, a.answer, a.shown) for a in answers] == [
        ("Anna", "real", 1),
        ("Anna", "real", 2),
        ("Anna", "real", 3),
    ]


def test_a_row_that_was_cut_short_is_removed_before_the_next(folder: AnswerFolder) -> None:
    """Also one of a name with a line end, and half of the first line of a table."""
    table = folder.folder / "answers" / "anna.csv"
    folder.add(said(0, path="/a\nb.png"), None)
    for tail in ("0000,/1.p", '0000,"/a\nb', "0" * 32):
        with table.open("a") as file:
            file.write(tail)
        count = len(images(folder))
        assert folder.add(said(count), None)
        assert images(folder) == [*range(count + 1)]
    table.write_text("image,pa")
    assert folder.add(said(5), None)
    assert images(folder) == [5]


def test_a_table_from_an_editor(folder: AnswerFolder) -> None:
    """It may end no last line, and have moved or added columns: the next row fits them."""
    table = folder.folder / "answers" / "anna.csv"
    folder.add(said(0), None)
    columns, cells = (line.split(",") for line in table.read_text().splitlines())
    moved = [["note", *columns[::-1]], ["x", *cells[::-1]]]
    table.write_text("\n".join(",".join(line) for line in moved))
    assert folder.add(said(1), None)
    assert images(folder) == [0, 1]
    assert table.read_text().endswith(f",/1.png,{1:032x}\n")


def test_an_old_table_is_not_written_again(folder: AnswerFolder) -> None:
    """It has no column for mended answers: they go to a second table, and count."""
    table = folder.folder / "answers" / "anna.csv"
    folder.add(said(0), None)
    columns, cells = (line.rpartition(",")[0] for line in table.read_text().splitlines())
    assert columns.endswith(",version")
    old = f"{columns}\n{cells.removesuffix('2')}1\n"
    table.write_text(old)
    assert folder.add(said(0, answer="synthetic", mended=1, mark="m.png"), None)
    assert not folder.add(said(0, mended=1), None)
    assert folder.add(said(1), None)
    assert table.read_text() == old
    for reader in (folder, AnswerFolder(folder.folder, FACES, [])):
        answers = reader.of("Anna")
        assert [(a.answer, a.mark, a.shown) for a in answers] == [
            ("synthetic", "m.png", 1),
            ("real", "", 2),
        ]
    assert folder.add(said(0, mended=2), None)
    assert len([*table.parent.glob("*.csv")]) == 2


def test_a_mended_answer_has_a_mark_of_its_own(folder: AnswerFolder) -> None:
    """Else a kill before the row would leave the old answer with the new mark."""
    for mended in (0, 1):
        path = folder.mark_of("anna", f"{0:032x}", "main", mended)
        drawn = Image.new("L", (8, 8), 1 + mended)
        assert folder.add(said(0, mark=path, mended=mended), drawn)
    first, second = sorted((folder.folder / "marks").rglob("*.png"), key=lambda path: path.name)
    (answer,) = read_answers(folder.folder)
    with Image.open(folder.folder / answer.mark) as image:
        assert image.getpixel((0, 0)) == 2
    assert first != second


@pytest.mark.parametrize(
    "names",
    [
        [".lock", ".writing", "open.html", "annotation.json.17.part"],
        ["annotation.json", "answers/anna.csv.17.part", "marks/anna/1.png.17.part"],
    ],
)
def test_a_first_start_that_was_killed(tmp_path: Path, names: list[str]) -> None:
    """It leaves no folder that the next start takes for another's, and no parts of files."""
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"version": 1, "practice": []}')
    folder = AnswerFolder(tmp_path, FACES, [1])
    assert not [*tmp_path.rglob("*.part")]
    folder.add(said(0), None)
    assert images(folder) == [0]
