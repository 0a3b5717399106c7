"""python -m focus explain: what it writes of images, videos and folders, and what it refuses."""

import csv
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from focus.config.command_line import parse
from focus.config.use import ExplainConfig, Point
from focus.data.bad_files import BadFile
from focus.data.manifest import Manifest, Sample
from focus.data.overlay import overlay
from focus.errors import InputError
from focus.evaluation.inference import score_images
from focus.metrics import Calibration
from focus.model.detector import Detector
from focus.model.operating_points import POINTS, OperatingPoints, choose
from focus.use import explain as explaining
from focus.use.explain import explain, find_items
from focus.use.explanations import Item, Judge, Seen, View, Writer, video_score

# The program runs in one thread, as what is expected of it: sums over two differ in the last bit.
pytestmark = pytest.mark.usefixtures("plain_cpu", "one_thread")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of five pictures in two folders, of one name all but one, and a damaged one."""
    draw = np.random.default_rng(0)
    for number, name in enumerate(["a/1.png", "a/1.jpg", "b/1.png", "b/2.bmp", "b/10.png"]):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (40 + number, 60, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "pictures" / "b" / "5.png").write_bytes(b"no image")
    (tmp_path / "pictures" / "notes.txt").touch()
    return tmp_path / "pictures"


def saved(detector: Detector, folder: Path, threshold: float | None, **others: Any) -> Path:
    """The detector in a folder, with one threshold for all points; None: without any."""
    points = None
    if threshold is not None:
        thresholds = dict.fromkeys(POINTS, threshold) | others
        points = OperatingPoints(thresholds, Calibration(2, 1, 1), 90, 80)
    detector.points = points
    detector.save_pretrained(folder)
    return folder


def run(model: Path, output: Path, *paths: Path, **flags: Any) -> list[dict[str, str]]:
    """The rows of the table that is written."""
    settings = {"batch_size": 4, "threads": 1} | flags
    explain(
        ExplainConfig(
            paths=tuple(map(str, paths)), model_dir=str(model), output=str(output), **settings
        )
    )
    return rows_of(output / "explanations.csv")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        assert file.readline() == f"# focus-{path.stem} 1\n"
        return list(csv.DictReader(file))


def test_a_folder_gives_evaluations_scores_cams_and_overlays(
    detector: Detector, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [pictures / name for name in ("a/1.jpg", "a/1.png", "b/1.png", "b/2.bmp", "b/10.png")]
    manifest = Manifest(Sample(str(file)) for file in files)
    scores = score_images(detector, manifest, batch_size=4, progress=False)
    middle = float(np.median(scores.score))
    out = tmp_path / "out"
    rows = run(saved(detector, tmp_path / "m", middle), out, pictures, overlay_size=50)
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert [float(row["score"]) for row in rows] == scores.score.tolist()
    entropy = [np.float32(row["entropy_predicted"]) for row in rows]
    assert entropy == scores.entropy_predicted.tolist()
    # A score above decides, not one that is equal.
    decisions = ["synthetic" if score > middle else "real" for score in scores.score]
    assert sorted(decisions) == ["real"] * 3 + ["synthetic"] * 2
    assert [row["decision"] for row in rows] == decisions
    llr = Calibration(2, 1, 1).llr(scores.score).astype(np.float32)
    assert [np.float32(row["llr"]) for row in rows] == llr.tolist()
    cams = detector.predict(files, batch_size=4).cams.numpy()
    for row, file, cam in zip(rows, files, cams, strict=True):
        np.testing.assert_array_equal(np.load(out / row["cam"]), cam)
        face = Image.open(file).convert("RGB")
        face.thumbnail((50, 50), Image.Resampling.LANCZOS)
        with Image.open(out / row["overlay"]) as laid:
            assert laid.format == "PNG"
            assert max(laid.size) == 50
            np.testing.assert_array_equal(np.asarray(laid), np.asarray(overlay(face, cam[0])))
    (bad,) = read_bad(out)
    assert bad == [str(pictures / "b" / "5.png"), "image", "cannot identify image file"]
    said = capsys.readouterr().out
    assert f"threshold: balanced, a score above {middle} says" in said
    assert f"{files[0]}: {decisions[0]}, score {scores.score[0]}, entropy" in said
    assert "left out because they cannot be decoded: 1 (bad_files.csv)" in said
    for name in ("manifest.json", "explanations.csv", "overlays", "cams", "bad_files.csv"):
        assert f"written: {out / name}\n" in said


def read_bad(folder: Path) -> list[list[str]]:
    with (folder / "bad_files.csv").open() as file:
        mark, head, *rows = csv.reader(file)
    assert (mark, head) == (["# focus-bad-files 1"], ["path", "role", "reason"])
    return rows


def test_the_manifest_says_what_the_table_says(
    detector: Detector, pictures: Path, tmp_path: Path
) -> None:
    model = saved(detector, tmp_path / "m", 0.5)
    rows = run(model, tmp_path / "out", pictures, threshold="eer")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["threshold"] == {"point": "eer", "value": 0.5}
    assert (manifest["n_items"], manifest["n_bad"]) == (5, 1)
    assert manifest["model"]["config"]["image_size"] == 32
    assert len(manifest["items"]) == len(rows)
    for item, row in zip(manifest["items"], rows, strict=True):
        assert {key: "" if v is None else str(v) for key, v in item.items()} == row


def test_a_file_name_with_a_carriage_return(
    detector: Detector, pictures: Path, tmp_path: Path
) -> None:
    name = (pictures / "a" / "1.png").rename(pictures / "a" / "1\r.png")
    run(saved(detector, tmp_path / "m", 0.5), tmp_path / "out", name)
    with (tmp_path / "out" / "explanations.csv").open(newline="") as file:
        assert file.readline() == "# focus-explanations 1\n"
        assert [row["path"] for row in csv.DictReader(file)] == [str(name)]


def test_a_folder_of_frames_is_a_video(
    detector: Detector, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = saved(detector, tmp_path / "m", 0.5), pictures / "b"
    (row,) = run(model, tmp_path / "out", folder, as_video=True)
    frames = rows_of(tmp_path / "out" / "frames.csv")
    # 5.png, the third in natural order, is damaged.
    assert [(f["frame"], f["at"]) for f in frames] == [
        ("0", "1.png"),
        ("1", "2.bmp"),
        ("3", "10.png"),
    ]
    scores = [float(frame["score"]) for frame in frames]
    files = [folder / frame["at"] for frame in frames]
    assert scores == detector.predict(files).score.tolist()
    odds = np.array(scores) / (1 - np.array(scores))
    mean = np.exp(np.log(odds).mean())
    assert float(row["score"]) == pytest.approx(mean / (1 + mean), rel=1e-5)
    assert (row["kind"], row["frames"], row["overlay"]) == ("video", "3", "")
    assert row["decision"] == ("synthetic" if float(row["score"]) > 0.5 else "real")
    assert "over 3 frames" in capsys.readouterr().out
    assert [bad[:2] for bad in read_bad(tmp_path / "out")] == [[str(folder / "5.png"), "image"]]
    (item,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["items"]
    assert [frame["at"] for frame in item["frames"]] == [frame["at"] for frame in frames]
    # Of more frames than are wanted, those in the middle of equal parts.
    run(model, tmp_path / "two", folder, as_video=True, frames=2)
    frames = rows_of(tmp_path / "two" / "frames.csv")
    # Their numbers are those in the folder, as a video file's are those in the file.
    assert [(f["frame"], f["at"]) for f in frames] == [("1", "2.bmp"), ("3", "10.png")]
    assert all(f"frame00000{f['frame']}" in f["overlay"] for f in frames)


def test_videos_and_images_in_one_folder(
    detector: Detector, pictures: Path, tmp_path: Path
) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(pictures / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        for number in range(30):
            pixels = np.full((48, 64, 3), 8 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    (pictures / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    rows = run(saved(detector, tmp_path / "m", 0.5), out, pictures, frames=10, batch_size=3)
    kinds = {Path(row["path"]).name: (row["kind"], row["frames"]) for row in rows}
    assert kinds.pop("film.mp4") == ("video", "10")
    assert set(kinds.values()) == {("image", "")}
    frames = rows_of(out / "frames.csv")
    assert [frame["frame"] for frame in frames] == [str(n) for n in range(1, 30, 3)]
    assert [float(frame["at"]) for frame in frames] == pytest.approx(np.arange(1, 30, 3) / 25)
    assert {bad[1] for bad in read_bad(out)} == {"image", "video"}
    assert len(list((out / "overlays").iterdir())) == 5 + 10


def test_the_mean_of_log_odds_by_hand() -> None:
    # Odds 9, 9 and 1/9: their geometric mean is 9 ** (1/3).
    expected = 9 ** (1 / 3) / (1 + 9 ** (1 / 3))
    assert video_score([np.float64(score) for score in (0.9, 0.9, 0.1)]) == pytest.approx(expected)
    whole = [np.float64(score) for score in (1, 1, 0)]
    assert 0.5 < video_score(whole) < 1, "a score that rounds to 0 or 1 is no end"
    sure = np.float64(1 - 1e-12)  # frames that are alike decide as each of them does
    assert video_score([sure] * 4) == pytest.approx(sure, abs=1e-15)


def test_validation_that_told_nothing_is_said(
    detector: Detector,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    detector.points = choose(np.linspace(0.5, 0.9, 40), np.full(20, 0.45))
    detector.save_pretrained(tmp_path / "m")
    rows = run(tmp_path / "m", tmp_path / "out", pictures / "a")
    assert {row["decision"] for row in rows} == {""}
    assert (
        "no decisions: the model has no threshold balanced (it needs validation images told apart "
        "better than by chance)"
    ) in capsys.readouterr().out
    assert detector.points.warning() in caplog.messages


def test_without_thresholds_there_is_no_decision_and_it_is_said(
    detector: Detector, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(detector, tmp_path / "m", None)
    rows = run(model, tmp_path / "out", pictures / "a")
    assert {(row["decision"], row["llr"]) for row in rows} == {("", "")}
    said = capsys.readouterr().out
    assert "no decisions: the model has no thresholds.json" in said
    assert "1.png: no decision, score" in said
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["threshold"] is None
    with pytest.raises(InputError, match=r"--threshold eer: the model .* has no thresholds\.json"):
        run(model, tmp_path / "out2", pictures / "a", threshold="eer")
    model = saved(detector, tmp_path / "m2", 0.5, bpcer1=None)
    with pytest.raises(InputError, match=r"no threshold bpcer1 \(it needs >= 500 real"):
        run(model, tmp_path / "out2", pictures / "a", threshold="bpcer1")
    assert not (tmp_path / "out2").exists()


def test_the_points_that_decide_are_those_of_the_file() -> None:
    assert set(get_args(Point)) == set(POINTS)
    config = parse(ExplainConfig, ["x", "--model-dir", "m", "--threshold", "eer"])
    assert config.threshold == "eer"


def test_pictures_that_are_not_cut_out_as_in_training_are_warned_of(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cropped = Detector(image_size=32)
    cropped.config = replace(cropped.config, geometry=("box margin 0.3",))
    run(saved(cropped, tmp_path / "m", 0.5), tmp_path / "out", pictures / "a")
    assert "2 of 2 images are cut out otherwise (whole) than" in caplog.text


def test_a_folder_with_anything_in_it_is_not_written_to(
    detector: Detector, pictures: Path, tmp_path: Path
) -> None:
    model, out = saved(detector, tmp_path / "m", 0.5), tmp_path / "out"
    run(model, out, pictures / "a")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="holds files already: give another one, or remove it"):
        run(model, out, pictures / "b")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_what_cannot_be_explained(detector: Detector, pictures: Path, tmp_path: Path) -> None:
    model, out = saved(detector, tmp_path / "m", 0.5), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for paths, words in (
        ([pictures / "lost.png"], "no file or folder .*lost"),
        ([tmp_path / "empty"], "no images and no videos in .*empty"),
        ([pictures / "b" / "5.png"], r"None of the 1 files can be used, .*5\.png"),
    ):
        with pytest.raises(InputError, match=words):
            run(model, out, *paths)
    with pytest.raises(InputError, match=r"no images in the folder .*empty"):
        run(model, out, tmp_path / "empty", as_video=True)
    assert not out.exists(), "nothing is made for nothing"


@pytest.mark.parametrize("as_video", [False, True])
def test_an_output_in_a_folder_that_is_explained(as_video: bool, pictures: Path) -> None:
    """Its overlays would be explained the next time. Refused before the model is looked for."""
    config = ExplainConfig(paths=(str(pictures),), model_dir="lost", as_video=as_video)
    said = r"--output .* lies in .*pictures, where its pictures .* next time: .*elsewhere\.$"
    for output in (pictures, pictures / "a" / "new"):
        with pytest.raises(InputError, match=said):
            explain(replace(config, output=str(output)))
    assert not (pictures / "a" / "new").exists()
    beside = replace(config, paths=(str(pictures / "a" / "1.png"),), as_video=False)
    with pytest.raises(InputError, match="lost"):
        explain(replace(beside, output=str(pictures / "a" / "new")))


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("foo", "FOCUS_BACKEND='foo' is not one of auto, triton, eager, reference"),
        ("triton", "backend triton cannot run: features on cpu and TRITON_INTERPRET is not 1"),
    ],
)
def test_a_backend_that_cannot_run_is_refused_first(
    backend: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("FOCUS_BACKEND", backend)
    sentence = f"^{said}: set FOCUS_BACKEND=auto, or leave it unset\\.$"
    with pytest.raises(InputError, match=sentence):
        explain(ExplainConfig(paths=("lost.png",), model_dir="lost"))


def test_human_maps_and_masks_beside_the_pictures_are_none(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As evaluation has it, which says so too: by their folder on top."""
    alone = find_items([str(pictures)], as_video=False, frames=1)
    for name in ("heatmaps", "Masks", "maps"):
        (pictures / name).mkdir()
        for number in (1, 2):
            Image.new("L", (8, 8)).save(pictures / name / f"{number}.png")
    assert find_items([str(pictures)], as_video=False, frames=1) == alone
    said = "%s: passed over 2 files in %s, which by its name holds maps and no images"
    assert sorted(record.getMessage() for record in caplog.records) == sorted(
        said % (pictures, name) for name in ("heatmaps", "Masks", "maps")
    )
    (frames,) = find_items([str(pictures)], as_video=True, frames=100)
    assert sorted(file for _, file in frames.frames) == sorted(item.path for item in alone)
    # A folder that is given itself is meant.
    assert len(find_items([str(pictures / "heatmaps")], as_video=False, frames=1)) == 2


def test_files_that_may_be_pictures_are_not_passed_over_in_silence(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as those of a telephone, which Pillow cannot read."""
    alone = find_items([str(pictures)], as_video=False, frames=1)
    for name in ("a.heic", "b.HEIC", "notes.txt"):
        (pictures / name).touch()
    assert find_items([str(pictures)], as_video=False, frames=1) == alone
    find_items([str(pictures)], as_video=True, frames=1)
    said = f"{pictures}: left out 2 files that are no %s by the ends of their names (.heic: 2)"
    assert [record.getMessage() for record in caplog.records] == [
        said % "images or videos",
        said % "images",
    ]


def test_each_file_once_and_long_names_fit(detector: Detector, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    name = "a" + "ü" * 120 + ".png"  # 245 bytes, and a cut after 180 would be in an ü
    Image.new("RGB", (8, 8)).save(folder / name)
    items = find_items([str(folder), str(folder / name)], as_video=False, frames=1)
    assert [item.path.name for item in items] == [name]
    (row,) = run(saved(detector, tmp_path / "m", 0.5), tmp_path / "out", folder)
    assert (tmp_path / "out" / row["overlay"]).exists()
    assert row["overlay"].encode() == b"overlays/000001-a" + "ü".encode() * 89 + b".png"


@pytest.mark.parametrize("count", [20, 21])
def test_more_than_twenty_files_are_counted_not_listed(
    count: int, detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(count):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(pictures / f"{number:02}.png")
    model = saved(detector, tmp_path / "model", 0.5)
    assert len(run(model, tmp_path / "out", pictures)) == count
    said = capsys.readouterr().out
    listed = [number for number in range(count) if f"{number:02}.png" in said]
    assert listed == (list(range(20)) if count == 20 else [])
    assert ("21 of 21 files explained" in said) == (count == 21)


def test_a_folder_in_one_that_was_given_before(pictures: Path) -> None:
    paths = [str(path) for path in (pictures, pictures / "a", pictures)]
    names = [item.path.name for item in find_items(paths, as_video=False, frames=1)]
    assert names == ["1.jpg", "1.png", "1.png", "2.bmp", "5.png", "10.png"]


def test_a_score_is_compared_as_in_evaluation() -> None:
    score, threshold = np.float64(1 - 1e-12), 1 - 2e-12  # 1 is the nearest float32 to both
    assert Judge("eer", threshold, None).decision(score) == "synthetic"
    assert Judge("eer", float(score), None).decision(score) == "real"


def test_scores_and_thresholds_near_1_are_told_apart(
    detector: Detector, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sure = Detector(image_size=32)
    sure.load_state_dict(detector.state_dict())
    sure.head.fc.weight.data.zero_()
    sure.head.fc.bias.data = torch.tensor([0.0, 15.0])
    run(saved(sure, tmp_path / "m", 0.9999999), tmp_path / "out", pictures / "a")
    said = capsys.readouterr().out
    assert "a score above 0.9999999 says synthetic" in said
    # 1 / (1 + exp(-15)) is 0.99999969.
    assert "1.png: real, score 0.999999" in said


def test_the_hash_is_that_of_the_weights_that_were_used(
    detector: Detector, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = saved(detector, tmp_path / "m", 0.5) / "model.safetensors"
    used = hashlib.sha256(weights.read_bytes()).hexdigest()

    def replaced(*given: Any) -> Any:
        weights.write_bytes(b"of the next epoch")
        return rows(*given)

    rows = explaining._rows
    monkeypatch.setattr(explaining, "_rows", replaced)
    run(tmp_path / "m", tmp_path / "out", pictures / "a")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["model"]["sha256"] == used


def one_seen() -> Seen:
    view = View(
        item=Item(1, Path("face.png"), "image"),
        frame=None,
        at="",
        pixels=torch.zeros(3, 8, 8, dtype=torch.uint8),
        face=Image.new("RGB", (8, 8)),
        last=True,
    )
    return Seen(view, np.float64(0.25), np.int64(0), np.zeros((2, 4, 4), np.float32), np.ones(2))


def test_the_manifest_is_written_last(tmp_path: Path) -> None:
    with Writer(tmp_path / "out", Judge("", None, None)) as writer:
        writer.bad.append(BadFile("bad.png", "image", "no image"))
        writer.add(one_seen(), writer.save(one_seen()))
        writer.finish({})
        assert read_bad(tmp_path / "out") == [["bad.png", "image", "no image"]]


def test_what_was_found_is_there_when_a_run_breaks_off(tmp_path: Path) -> None:
    seen = one_seen()
    bad = BadFile("bad.png", "image", "no image")

    def break_off() -> None:
        with Writer(tmp_path / "out", Judge("", None, None)) as writer:
            writer.bad.append(bad)
            writer.add(seen, writer.save(seen))
            writer.flush()
            assert rows_of(tmp_path / "out" / "explanations.csv")[0]["score"] == "0.25"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert read_bad(tmp_path / "out") == [["bad.png", "image", "no image"]]
    assert not (tmp_path / "out" / "manifest.json").exists(), "its absence says: not finished"


def program(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "focus", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_the_command_line(detector: Detector, pictures: Path, tmp_path: Path) -> None:
    model, out = saved(detector, tmp_path / "m", 0.5), tmp_path / "out"
    words = ["explain", "--as-video", pictures / "a", f"--model-dir={model}", "--output", out]
    done = program(*words, pictures / "b")
    assert done.returncode == 0, done.stderr
    assert [row["path"] for row in rows_of(out / "explanations.csv")] == [
        str(pictures / "a"),
        str(pictures / "b"),
    ]
    assert "explaining: 100%" in done.stderr
    # Not behind the bar on its line.
    bad = f"left out the image {str(pictures / 'b' / '5.png')!r}: cannot identify image file"
    assert bad in re.split("[\r\n]+", done.stderr)


@pytest.mark.slow
def test_a_name_forges_no_line(detector: Detector, pictures: Path, tmp_path: Path) -> None:
    model, forged = saved(detector, tmp_path / "m", 0.5), tmp_path / "a\nb: real, score 0.0.png"
    forged.write_bytes((pictures / "b" / "1.png").read_bytes())
    done = program("explain", forged, "--model-dir", model, "--output", tmp_path / "out")
    assert f"{str(forged)!a}: " in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, ""),
        (["explian"], 2, "There is no command 'explian' (did you mean explain?): it is one of "),
        (["explain", "x.png"], 2, "There is no model: give --model-dir with the folder of one."),
        (["explain", "--model-dir", "m"], 2, "nothing to explain: give an image, a video or a"),
        (["explain", "x", "--model-dir", "m", "--as-video"], 2, "--as-video is of no use"),
        (["explain", "x", "--model-dir", "m", "--frame", "3"], 2, "(did you mean --frames?)"),
        (["explain", "x", "--model-dir", "m", "--frames", "0"], 2, "--frames must be at least 1"),
        (["explain", "x", "--threshold", "err"], 2, "(did you mean eer?)"),
        (["export", "x"], 2, "'x' stands alone"),
        (["export", "--model-dir", "m"], 2, "There is no file to write: give --onnx FILE."),
        (["--help"], 0, ""),
    ],
)
def test_usage(words: list[str], code: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    from focus.__main__ import PROG, main
    from focus.runtime.program import program

    with pytest.raises(SystemExit) as ended, program(PROG, debug=False):
        main(words)
    assert ended.value.code == code
    captured = capfd.readouterr()
    assert said in captured.err
    if not said:
        assert captured.out.startswith("usage: python -m focus COMMAND [flags]\n")
        assert "in a checkout of the repository,\npython train.py and" in captured.out
        assert "  export   write a detector as ONNX\n" in captured.out
        for other in ("train.py", "evaluate.py", "-m focus.data", "-m focus.experiment"):
            assert f"python {other}" in captured.out
    else:
        assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--debug", "explain", "x.png"], "explain"),  # no model: while the flags are read
        (["explain", "x.png", "--debug"], "explain"),
        (["--debug", "explain", "x.png", "--model-dir", "nowhere"], "explain"),  # in the command
        (["--debug", "--debug", "export", "--onnx", "x.onnx"], "export"),
    ],
)
def test_debug_may_stand_before_the_command(
    words: list[str], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from focus.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith(f"python -m focus {name}: error: ")


def test_help_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    from focus.__main__ import main

    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m focus explain PATH ... [flags]")
    assert "--as-video [true|false]" in said
