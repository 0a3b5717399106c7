"""focus explain: what it writes of images, videos and folders, and what it refuses."""

import csv
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from focus.config.options import POINTS
from focus.config.use import ExplainConfig
from focus.data.manifest import Manifest, Sample
from focus.data.overlay import overlay
from focus.errors import InputError
from focus.evaluation.inference import score_images
from focus.metrics.calibration import Calibration
from focus.model.config import FacesFound, TrainingPictures
from focus.model.detector import Detector
from focus.model.inputs import Normalise
from focus.model.operating_points import OperatingPoints
from focus.model.pictures import as_seen
from focus.runtime.files import sole_writer
from focus.use.explain import explain, find_items

from ..browser import NEEDS_CHROMIUM
from ..launching import in_another_process

# The program runs in one thread, as what is expected of it: sums over two differ in the last bit.
pytestmark = pytest.mark.usefixtures("plain_cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Make five pictures in two folders, of one name all but one, and a damaged one."""
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
    """Save the detector with one threshold for all points; None: without any."""
    detector.points = None
    if threshold is not None:
        thresholds = dict.fromkeys(POINTS, threshold) | others
        detector.points = OperatingPoints(thresholds, Calibration(2, 1, 1), 90, 80)
    detector.save_pretrained(folder)
    return folder


def run(model: Path, output: Path, *paths: Path, **flags: Any) -> list[dict[str, str]]:
    """Explain the paths; return the rows of the table."""
    settings = {"batch_size": 4, "threads": 1} | flags
    arguments = {"paths": tuple(map(str, paths)), "model_dir": str(model), "output": str(output)}
    explanations = explain(ExplainConfig(**arguments, **settings))
    print(explanations)
    rows = rows_of(output / "explanations.csv")
    # What the caller gets is what is written.
    for explanation, row in zip(explanations, rows, strict=True):
        assert {name: "" if v is None else str(v) for name, v in explanation.row.items()} == row
        if row["cam"]:
            np.testing.assert_array_equal(explanation.cams, [np.load(output / row["cam"])])
            with Image.open(output / row["overlay"]) as laid:
                assert np.asarray(explanation.picture()).tobytes() == np.asarray(laid).tobytes()
    return rows


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def bad_files(folder: Path) -> list[list[str]]:
    with (folder / "bad_files.csv").open() as file:
        return list(csv.reader(file))[1:]


def test_a_folder_gives_evaluations_scores_cams_and_overlays(
    detector: Detector, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [pictures / name for name in ("a/1.jpg", "a/1.png", "b/1.png", "b/2.bmp", "b/10.png")]
    manifest = Manifest(Sample(str(file)) for file in files)
    scores = score_images(detector, manifest, batch_size=4, progress=False)
    middle = float(np.median(scores.score))
    out, model = tmp_path / "out", saved(detector, tmp_path / "m", middle)
    scores = score_images(detector, manifest, batch_size=4, progress=False)
    rows = run(model, out, pictures, overlay_size=50)
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
            np.testing.assert_array_equal(np.asarray(laid), np.asarray(overlay(face, cam[0])))
    damaged = [str(pictures / "b" / "5.png"), "image", "cannot identify image file"]
    assert bad_files(out) == [damaged]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["threshold"] == {"point": "eer", "value": middle}
    assert (manifest["n_items"], manifest["n_bad"]) == (5, 1)
    weights = (model / "model.safetensors").read_bytes()
    assert manifest["model"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert manifest["model"]["config"]["image_size"] == 32
    for item, row in zip(manifest["items"], rows, strict=True):
        assert {key: "" if v is None else str(v) for key, v in item.items()} == row
    said = capsys.readouterr().out
    assert f"threshold: {middle:.4g} (eer, fixed on validation images); a score above it" in said
    assert f"{files[0]}: {decisions[0]}, score {scores.score[0]:.4g}, entropy" in said
    assert "left out because they cannot be decoded: 1 (bad_files.csv)" in said
    assert "explained: 5 pictures, 0 videos, left out without a face: 0, not decoded: 1\n" in said
    assert (
        said.count("Pictures are taken whole and squashed to 32 x 32 pixels; --faces largest") == 1
    )
    for name in ("manifest.json", "explanations.csv", "overlays", "cams", "bad_files.csv"):
        assert f"written: {out / name}\n" in said
    page = (out / "index.html").read_text()
    assert f"threshold {middle:.4g} (eer, fixed on validation images): a score above" in page
    for row in rows:
        assert f'data-decision="{row["decision"]}"><a class="card" href="{row["overlay"]}">' in page
        assert f"<b>{row['decision']}</b> · score {float(row['score']):.4g} · h" in page


@pytest.mark.slow
@NEEDS_CHROMIUM
def test_long_names_leave_the_page_as_wide_as_the_screen(
    detector: Detector, tmp_path: Path, browser: Any
) -> None:
    """At 360 pixels the name of a run made the page wider; at 1280 each picture had a line."""
    long = "a_name_without_a_space_as_a_script_makes_it_of_all_settings_" * 2
    model = saved(detector, tmp_path / long / "model", 0.5)
    for number in range(4):
        pixels = np.full((40, 40, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{long}{number}.png")
    run(model, tmp_path / "out", *sorted(tmp_path.glob("*.png")))
    for width, n_columns in ((360, 2), (1280, 4)):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto((tmp_path / "out" / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        lefts = page.eval_on_selector_all(
            ".cards li", "all => all.map(card => card.getBoundingClientRect().left)"
        )
        assert len(set(lefts)) == n_columns
        page.close()


def test_a_transformers_cam_lies_over_the_patch_that_it_is_of(tmp_path: Path) -> None:
    """Also on a picture that is no square, which the network sees squashed to one."""
    torch.manual_seed(0)
    detector, row, col = Detector("test_vit", image_size=96, pool="both").eval(), 1, 4
    plain = np.full((192, 96, 3), 128, np.uint8)
    pixels = plain.copy()
    noise = np.random.default_rng(0).integers(0, 256, (32, 16, 3), np.uint8)
    pixels[32 * row : 32 * (row + 1), 16 * col : 16 * (col + 1)] = noise  # of 6 x 6 patches
    Image.fromarray(pixels).save(tmp_path / "marked.png")

    def seen(picture: Image.Image) -> Any:
        image = Normalise(detector.mean, detector.std)(
            as_seen(picture, detector.preprocessing)[None]
        )
        return detector.features(image)[0, :, row, col]

    with torch.no_grad():  # what the mark changes there speaks for synthetic
        change = seen(Image.fromarray(pixels)) - seen(Image.fromarray(plain))
        detector.head.fc.weight.copy_(torch.stack((-change, change)))
        detector.head.fc.bias.copy_(torch.tensor([-1e3, 1e3]))
    detector.save_pretrained(tmp_path / "m")
    (table_row,) = run(tmp_path / "m", tmp_path / "out", tmp_path / "marked.png")
    assert np.load(tmp_path / "out" / table_row["cam"])[0].argmax() == 6 * row + col
    with Image.open(tmp_path / "out" / table_row["overlay"]) as laid:
        heat = np.abs(np.asarray(laid, float) - pixels).sum(2)
    assert heat.reshape(6, 32, 6, 16).mean((1, 3)).argmax() == 6 * row + col


def test_a_cropping_models_cam_lies_over_the_middle_that_it_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Detector(image_size=32, fit="crop").save_pretrained(tmp_path / "m")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    Image.fromarray(pixels[:20, :40]).save(tmp_path / "small.png")
    large, small = run(
        tmp_path / "m", tmp_path / "out", tmp_path / "large.png", tmp_path / "small.png"
    )
    said = capsys.readouterr().out
    assert "Of a picture only the middle is seen, as it is: 32 x 32 pixels; --faces" in said
    for row, whole, box in (
        (large, pixels, (16, 48, 32, 64)),
        (small, pixels[:20, :40], (0, 20, 4, 36)),  # which goes on above and below
    ):
        with Image.open(tmp_path / "out" / row["overlay"]) as laid:
            rows, columns = np.nonzero((np.asarray(laid) != whole).any(2))
        assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == box
    (expected,) = Detector.from_pretrained(tmp_path / "m").predict(pixels[16:48, 32:64]).score
    assert float(large["score"]) == pytest.approx(float(expected), abs=1e-6)


def test_a_folder_of_frames_is_a_video(
    detector: Detector, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = saved(detector, tmp_path / "m", 0.5), pictures / "b"
    (row,) = run(model, tmp_path / "out", folder, as_video=True)
    frames = rows_of(tmp_path / "out" / "frames.csv")
    # 5.png, the third in natural order, is damaged.
    places = [("0", "1.png"), ("1", "2.bmp"), ("3", "10.png")]
    assert [(frame["frame"], frame["at"]) for frame in frames] == places
    scores = [float(frame["score"]) for frame in frames]
    assert scores == detector.predict([folder / frame["at"] for frame in frames]).score.tolist()
    odds = np.array(scores) / (1 - np.array(scores))
    mean = np.exp(np.log(odds).mean())
    assert float(row["score"]) == pytest.approx(mean / (1 + mean), rel=1e-5)
    assert (row["kind"], row["frames"], row["overlay"]) == ("video", "3", "")
    assert row["decision"] == ("synthetic" if float(row["score"]) > 0.5 else "real")
    assert "over 3 frames" in capsys.readouterr().out
    assert [bad[:2] for bad in bad_files(tmp_path / "out")] == [[str(folder / "5.png"), "image"]]
    (item,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["items"]
    assert [frame["at"] for frame in item["frames"]] == [frame["at"] for frame in frames]
    # Of more frames than are wanted, those in the middle of equal parts.
    run(model, tmp_path / "two", folder, as_video=True, frames=2)
    frames = rows_of(tmp_path / "two" / "frames.csv")
    assert [(frame["frame"], frame["at"]) for frame in frames] == places[1:]
    assert all(f"frame00000{frame['frame']}" in frame["overlay"] for frame in frames)


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
    assert {bad[1] for bad in bad_files(out)} == {"image", "video"}
    assert len(list((out / "overlays").iterdir())) == 5 + 10


def test_without_thresholds_one_half_decides_and_it_is_said(
    detector: Detector, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(detector, tmp_path / "m", None)
    rows = run(model, tmp_path / "out", pictures / "a")
    assert all((float(r["score"]) > 0.5) == (r["decision"] == "synthetic") for r in rows)
    assert {row["llr"] for row in rows} == {""}
    assert "threshold: 0.5 (none was fixed on validation images)" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert written["threshold"] == {"point": "default", "value": 0.5}
    with pytest.raises(InputError, match=r"--threshold eer: validation fixed no such threshold"):
        run(model, tmp_path / "out2", pictures / "a", threshold="eer")
    model = saved(detector, tmp_path / "m2", 0.5, bpcer1=None)
    with pytest.raises(InputError, match=r"no such threshold \(it needs >= 500 real"):
        run(model, tmp_path / "out2", pictures / "a", threshold="bpcer1")
    assert not (tmp_path / "out2").exists()


def test_what_cannot_be_explained(detector: Detector, pictures: Path, tmp_path: Path) -> None:
    model, out = saved(detector, tmp_path / "m", 0.5), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for path, flags, words in (
        (pictures / "lost.png", {}, "no file or folder .*lost"),
        (tmp_path / "empty", {}, "no images or videos in the folder .*empty"),
        (tmp_path / "empty", {"as_video": True}, "no images in the folder .*empty"),
        (pictures / "b" / "5.png", {}, r"None of the 1 files can be used, .*5\.png"),
    ):
        with pytest.raises(InputError, match=words):
            run(model, out, path, **flags)
        assert not out.exists() or not any(file.is_file() for file in out.rglob("*"))
    for inside in (pictures, pictures / "a" / "new"):  # they would be explained the next time
        with pytest.raises(InputError, match=r"--output .* lies in .*pictures"):
            run(model, inside, pictures)
    with (
        in_another_process(lambda: sole_writer(out)),
        pytest.raises(InputError, match=r"Another process writes to .*out"),
    ):
        run(model, out, pictures / "a")
    run(model, out, pictures / "a")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="holds files already: give another one, or remove it"):
        run(model, out, pictures / "b")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_an_interrupted_run_leaves_what_it_has_found(
    detector: Detector, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = saved(detector, tmp_path / "m", 0.5), tmp_path / "out"
    predict, calls = Detector.predict_pixels, iter(range(9))

    def interrupted(self: Detector, *arguments: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return predict(self, *arguments)

    monkeypatch.setattr(Detector, "predict_pixels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(model, out, pictures, batch_size=2)
    # The item of the last view may have more of them to come.
    assert len(rows_of(out / "explanations.csv")) == 3
    assert bad_files(out)
    assert not (out / "manifest.json").exists(), "its absence says: not finished"


def test_what_is_unlike_training_is_marked_and_what_was_not_checked_is_said(
    detector: Detector, pictures: Path, tmp_path: Path
) -> None:
    plain = run(saved(detector, tmp_path / "plain", 0.5), tmp_path / "one", pictures)
    assert {row["unlike"] for row in plain} == {""}
    page = (tmp_path / "one" / "index.html").read_text()
    assert "A score is no proof." in page
    assert "without a summary of what training saw" in page
    assert "Whether there is a face in a picture was not checked" in page
    assert json.loads((tmp_path / "one" / "manifest.json").read_text())["date"] in page
    # The pictures are 40 to 44 pixels high, and noise.
    summary = TrainingPictures(9, (86.0, 400.0), (0.0, 1e9))
    detector.config = replace(detector.config, training_pictures=summary)
    rows = run(saved(detector, tmp_path / "model", 0.5), tmp_path / "two", pictures)
    expected = {height: height < 43 for height in range(40, 45)}
    for row in rows:
        height = Image.open(row["path"]).height
        text = f"shorter side {height} pixels, in training 86 to 400"
        assert row["unlike"] == (text if expected[height] else "")
    page = (tmp_path / "two" / "index.html").read_text()
    assert page.count("unlike what training saw: shorter side") == 3
    assert "3 of 5 are unlike what training saw" in page
    assert "without a summary" not in page


@pytest.mark.parametrize(
    ("heights", "said"),
    [
        ((42, 42, 43), "2 of 3 frames: shorter side 42 pixels, in training 86 to 400"),
        ((42, 43), ""),
        ((43, 42, 43), ""),
    ],
)
def test_a_video_is_unlike_training_if_more_than_half_of_its_frames_are(
    heights: tuple[int, ...], said: str, detector: Detector, tmp_path: Path
) -> None:
    summary = TrainingPictures(9, (86.0, 400.0), (0.0, 1e9))
    detector.config = replace(detector.config, training_pictures=summary)
    video, out = tmp_path / "video", tmp_path / "out"
    video.mkdir()
    for number, height in enumerate(heights):
        Image.new("RGB", (60, height)).save(video / f"{number}.png")
    (row,) = run(saved(detector, tmp_path / "model", 0.5), out, video, as_video=True)
    assert row["unlike"] == said
    # Frames keep what is said of them.
    frames = rows_of(out / "frames.csv")
    assert [bool(frame["unlike"]) for frame in frames] == [height == 42 for height in heights]
    page = (out / "index.html").read_text()
    assert ("1 of 1 are unlike what training saw" in page) == bool(said)
    assert ("About one in a hundred pictures like those of training is marked" in page) == bool(
        said
    )


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Make one photograph with a face and two without."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("astronaut", "chelsea", "coffee"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    return folder


def model_that_saw(detector: Detector, folder: Path, faces: FacesFound | None) -> Path:
    """Save a detector whose training saw pictures of all sizes, and faces in some of them."""
    summary = TrainingPictures(40, (1.0, 9e3), (0.0, 1e9), faces)
    detector.config = replace(detector.config, training_pictures=summary)
    return saved(detector, folder, 0.5)


def test_a_picture_without_a_face_is_marked_where_training_images_had_one(
    detector: Detector, photographs: Path, tmp_path: Path
) -> None:
    model, out = model_that_saw(detector, tmp_path / "m", FacesFound("lbp", 40, 38)), tmp_path / "o"
    rows = run(model, out, photographs)
    marked = {Path(row["path"]).stem: row["unlike"] for row in rows}
    text = "no face found, in training in 38 of 40"
    assert marked == {"astronaut": "", "chelsea": text, "coffee": text}
    page = (out / "index.html").read_text()
    assert page.count(f"unlike what training saw: {text}") == 2
    assert "2 of 3 are unlike what training saw" in page
    assert "Whether there is a face" not in page
    frames = run(model, tmp_path / "film", photographs, as_video=True)
    assert frames[0]["unlike"] == f"2 of 3 frames: {text}"


@pytest.mark.parametrize(
    ("faces", "reason"),
    [
        (None, "The model was saved without a count of faces in training images."),
        (FacesFound("lbp", 9, 4), "The detector lbp found one in only 4 of 9 training images."),
        (FacesFound("dlib", 40, 40), "pip install &#39;focus-faces[faces]&#39;."),
    ],
)
def test_where_faces_are_not_looked_for_nothing_is_marked_and_the_reason_is_said(
    faces: FacesFound | None,
    reason: str,
    detector: Detector,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)  # as if it were not installed
    model = model_that_saw(detector, tmp_path / "model", faces)
    rows = run(model, tmp_path / "out", photographs)
    assert {row["unlike"] for row in rows} == {""}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Whether there is a face in a picture was not checked: whatever it shows" in page
    assert reason in page


def test_each_file_once_in_natural_order_without_maps(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("heatmaps", "Masks"):
        (pictures / name).mkdir()
        Image.new("L", (8, 8)).save(pictures / name / "1.png")
    paths = [str(path) for path in (pictures, pictures / "a", pictures)]
    names = [item.path.name for item in find_items(paths, as_video=False, frames=1)]
    assert names == ["1.jpg", "1.png", "1.png", "2.bmp", "5.png", "10.png"]
    assert "heatmaps" in caplog.text
    (video,) = find_items([str(pictures)], as_video=True, frames=100)
    assert [file.name for _, file in video.frames] == names
    # A folder that is given itself is meant.
    assert len(find_items([str(pictures / "heatmaps")], as_video=False, frames=1)) == 1


def test_pictures_need_no_pyav(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # as what cannot be imported
    assert find_items([str(pictures)], as_video=True, frames=1)[0].kind == "video"
    (pictures / "film.mp4").touch()
    with pytest.raises(InputError, match="PyAV: pip install"):
        find_items([str(pictures)], as_video=False, frames=1)
