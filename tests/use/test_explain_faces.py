"""focus explain --faces: a verdict for each person, in pictures and in videos."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from focus.data.images import load_image
from focus.data.making.crop import cut_faces
from focus.data.making.faces import DETECTORS, window
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError
from focus.model.detector import Detector

from ..data.making.drawn_faces import ANN, BOB, CAT, draw, find
from .test_explain import rows_of, run

pytestmark = pytest.mark.usefixtures("plain_cpu")


@pytest.fixture
def model(detector: Detector, tmp_path: Path) -> Path:
    """A model whose training images were cut out by one detector."""
    detector.config = replace(detector.config, geometry=("lbp margin 0.5",))
    detector.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lbp find rectangles."""
    monkeypatch.setitem(DETECTORS, "lbp", lambda: find)


@pytest.mark.usefixtures("drawn")
def test_each_face_of_a_picture_has_a_verdict(
    detector: Detector, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = [(ANN, (200, 40, 220, 60)), (BOB, (10, 40, 60, 90)), (CAT, (110, 20, 140, 50))]
    photo, empty = draw(tmp_path / "in/photo.png", three), draw(tmp_path / "in/sky.png", [])
    out = tmp_path / "all"
    rows = run(model, out, tmp_path / "in", faces="all", batch_size=2, overlay_size=150)
    assert [(Path(row["path"]).name, row["face"]) for row in rows] == [
        ("photo.png", face) for face in "123"
    ]
    boxes = ["10.0 40.0 60.0 90.0", "110.0 20.0 140.0 50.0", "200.0 40.0 220.0 60.0"]
    assert [row["box"] for row in rows] == boxes
    squares = [(0, 15, 100, 115), (95, 5, 155, 65), (190, 30, 230, 70)]
    cut = [load_image(photo).crop(square) for square in squares]
    prediction = detector.predict(cut, batch_size=2)
    assert [float(row["score"]) for row in rows] == prediction.score.tolist()
    assert len({row["score"] for row in rows}) == 3
    for row, cam in zip(rows, prediction.cams.numpy(), strict=True):
        np.testing.assert_array_equal(np.load(out / row["cam"]), cam)
    (overlay,) = {row["overlay"] for row in rows}
    with Image.open(out / overlay) as laid, load_image(photo) as before:
        assert laid.size == (150, 60)
        before.thumbnail((150, 150), Image.Resampling.LANCZOS)
        changed = (np.asarray(laid) != np.asarray(before)).any(2)
    for left, top, right, bottom in np.array(squares) // 2:
        assert changed[top:bottom, left:right].mean() > 0.9
    assert not changed[59:].any()
    assert (out / "no_face.csv").read_text().splitlines()[1:] == [f"{empty},no face found"]
    said = capsys.readouterr().out
    assert "faces: all, cut out by lbp margin 0.5\n" in said
    assert f"{photo} face 3: " in said
    assert "left out because no face was found: 1 (no_face.csv)" in said
    written = json.loads((out / "manifest.json").read_text())
    assert (written["faces"], written["geometry"]) == ("all", "lbp margin 0.5")
    assert (written["n_items"], written["n_no_face"]) == (3, 1)
    # By default the largest, since training cut all faces so.
    (row,) = run(model, tmp_path / "one", Path(photo))
    assert (row["face"], row["box"]) == ("1", boxes[0])
    (row,) = run(model, tmp_path / "whole", Path(photo), faces="none")
    assert (row["face"], row["box"]) == ("", "")
    with pytest.raises(
        InputError, match=r"the first is .*sky.* \(no face found\): give others, or"
    ):
        run(model, tmp_path / "nobody", Path(empty))
    assert not (tmp_path / "nobody/explanations.csv").exists()


@pytest.mark.usefixtures("drawn")
def test_several_people_in_a_video_have_several_verdicts(
    detector: Detector, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann = [(10 + 8 * n, 30, 50 + 10 * n, 70) for n in range(5)]
    bob = {n: (240 - 6 * n, 40, 270 - 6 * n, 70) for n in (1, 2, 4)}
    film = tmp_path / "film"
    for n in range(5):
        frame = [(ANN, ann[n]), *([(BOB, bob[n])] if n in bob else [])]
        draw(film / f"{n}.png", frame)
    draw(film / "5.png", [])
    out = tmp_path / "out"
    rows = run(model, out, film, faces="all", as_video=True)
    assert [(row["kind"], row["face"], row["frames"]) for row in rows] == [
        ("video", "1", "5"),
        ("video", "2", "3"),
    ]
    frames = rows_of(out / "frames.csv")
    assert [(row["face"], row["frame"]) for row in frames] == [
        *(("1", n) for n in "01234"),
        *(("2", n) for n in "124"),
    ]
    crops = [
        load_image(film / f"{n}.png").crop(window(box, 0.5, (300, 120)))
        for n, box in enumerate(ann)
    ]
    scores = [float(row["score"]) for row in frames[:5]]
    assert scores == pytest.approx(detector.predict(crops).score.tolist(), rel=1e-6)
    assert len(set(scores)) == 5
    odds = np.log(np.array(scores) / (1 - np.array(scores))).mean()
    assert float(rows[0]["score"]) == pytest.approx(1 / (1 + np.exp(-odds)), rel=1e-9)
    # Linear between the fourth and the fifth of five: at 0.9 * 4 = 3.6.
    fourth, fifth = sorted(scores)[3:]
    assert float(rows[0]["score_q90"]) == pytest.approx(fourth + 0.6 * (fifth - fourth), rel=1e-12)
    items = json.loads((out / "manifest.json").read_text())["items"]
    assert [[frame["frame"] for frame in item["frames"]] for item in items] == [
        [0, 1, 2, 3, 4],
        [1, 2, 4],
    ]
    assert f"{film} face 2: " in capsys.readouterr().out
    overlays = sorted(path.name for path in (out / "overlays").iterdir())
    assert overlays == [f"000001-film-frame00000{n}.png" for n in range(5)]
    (row,) = run(model, tmp_path / "largest", film, as_video=True)
    assert (row["face"], row["frames"]) == ("1", "5")
    assert float(row["score"]) == pytest.approx(float(rows[0]["score"]), rel=1e-6)


def test_the_faces_are_those_that_crop_cuts(
    detector: Detector, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the real detector, to the last bit."""
    photo = tmp_path / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(photo)
    samples = Manifest([Sample(str(photo))], "the set")
    cut = cut_faces(samples, tmp_path / "cut", source="lbp", margin=0.5, progress=False)
    (row,) = run(model, tmp_path / "out", photo)
    assert float(row["score"]) == detector.predict(cut.faces[0].path).score.item()
    assert caplog.messages == []  # these are cut out as for training


def test_without_the_package_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Path(draw(tmp_path / "photo.png", []))
    monkeypatch.setitem(sys.modules, "skimage.feature", None)  # as what cannot be imported
    with pytest.raises(InputError, match=r"^The face detector lbp needs a package .*\[faces\]'\.$"):
        run(model, tmp_path / "out", photo)
    assert not (tmp_path / "out").exists()
    run(model, tmp_path / "out", photo, faces="none")
