"""The images of a report, with their pictures and a table of all, and the sheet of overlays."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.data.images import Preprocessing
from focus.data.manifest import Manifest, Sample
from focus.data.overlay import strip
from focus.evaluation.inference import score_images
from focus.evaluation.protocol import match
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.model.detector import Detector
from focus.report import gallery
from focus.report.gallery import write_sheet

from .reports import made

Made = tuple[Manifest, Scores, Results]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("images"), 30, resamples=0)


def test_images_are_chosen_evenly_and_not_by_hand(evaluation: Made) -> None:
    _, scores, results = evaluation
    test_sets = gallery.sets(scores, match(scores, results["training_generators"]))
    chosen, per_kind = gallery.pick_rows(scores, test_sets, shown=60)
    again, _ = gallery.pick_rows(scores, test_sets, shown=60)
    assert chosen.tolist() == again.tolist() == sorted(set(chosen.tolist()))
    outcome = gallery.outcomes(scores)
    kinds = list(zip(test_sets, scores.label, scores.generator, outcome, strict=True))
    sizes = {kind: kinds.count(kind) for kind in set(kinds)}
    counts = {kind: sum(kinds[row] == kind for row in chosen) for kind in sizes}
    assert counts == {kind: min(size, per_kind) for kind, size in sizes.items()}
    assert len(chosen) <= 60 < sum(min(size, per_kind + 1) for size in sizes.values())
    # Of a kind, the middle of equal parts by score.
    kind = max(sizes, key=lambda k: sizes[k])
    members = np.array([row for row in range(len(scores)) if kinds[row] == kind])
    ranks = scores.score[members].argsort().argsort()
    taken = np.sort(ranks[np.isin(members, chosen)])
    parts = taken * per_kind // len(members)
    assert parts.tolist() == list(range(per_kind))
    # More kinds than pictures: one each, none is left out. Enough pictures: all.
    assert len(gallery.pick_rows(scores, test_sets, shown=1)[0]) == len(sizes)
    assert gallery.pick_rows(scores, test_sets, shown=10**6)[0].tolist() == list(range(len(scores)))


def test_the_table_of_images_is_that_of_the_scores(evaluation: Made) -> None:
    _, scores, results = evaluation
    test_sets = gallery.sets(scores, match(scores, results["training_generators"]))
    data = gallery.table(scores, test_sets, np.arange(3))
    assert [f"{data['root']}/{path}" for path in data["path"]] == scores.path.tolist()
    assert data["score"] == [round(float(score), 4) for score in scores.score]
    assert data["cam_range"] == [round(float(value), 4) for value in scores.cam_range]
    assert data["entropy"] == [round(float(value), 4) for value in scores.entropy_predicted]
    assert data["label"] == scores.label.tolist()
    names = [data["generators"][number] for number in data["generator"]]
    assert names == [name or "real" for name in scores.generator]
    assert [data["sets"][number] for number in data["set"]] == scores.test_set.tolist()
    wrong = (scores.predicted == 1) != (scores.label == 1)
    outcomes = np.array([data["outcomes"][number] for number in data["outcome"]])
    assert (np.isin(outcomes, ["missed", "false alarm"]) == wrong).all()
    assert (outcomes[wrong & (scores.label == 1)] == "missed").all()
    assert (outcomes[wrong & (scores.label == 0)] == "false alarm").all()


def test_the_pictures_are_those_of_the_rows(evaluation: Made, tmp_path: Path) -> None:
    """With the CAM that the image was scored with over the face."""
    manifest, scores, _ = evaluation
    pictures = gallery.pictures(manifest, scores, [40, 5], [Preprocessing(32, (2, 2))])
    for (row, uri), expected in zip(pictures, [40, 5], strict=True):
        assert row == expected
        assert scores.cams is not None
        shown = gallery.as_data_uri(strip(manifest[row], scores.cams[row], gallery.SIDE))
        assert uri == shown
        assert uri.startswith("data:image/webp;base64,")


@pytest.fixture
def faces(tmp_path: Path) -> Manifest:
    generator = np.random.default_rng(0)
    samples = []
    for number, (label, name) in enumerate([(1, "uB"), (0, ""), (1, "kA"), (None, ""), (1, "uB")]):
        path = str(tmp_path / f"{number}.png")
        Image.fromarray(generator.integers(0, 256, (40, 32, 3), np.uint8)).save(path)
        samples.append(Sample(path, label, name))
    return Manifest(samples, "faces")


def sheet_of(detector: Detector, manifest: Manifest, path: Path, columns: int = 2) -> Image.Image:
    scores = score_images(detector, manifest, batch_size=4, progress=False)
    write_sheet(detector, manifest, scores, path, columns=columns)
    return Image.open(path).convert("RGB")


def test_sheet_has_a_row_a_kind_and_a_place_for_maps(faces: Manifest, tmp_path: Path) -> None:
    detector = Detector(training_generators=("kA",)).eval()
    out = tmp_path / "sheet.png"
    # Rows: real, kA, uB, unlabelled; then real and kA. Each is 192 pixels, a gap and a caption.
    four_rows = sheet_of(detector, faces, out)
    two_rows = sheet_of(detector, Manifest(faces[1:3]), out)
    assert four_rows.height - two_rows.height == 2 * (192 + 16 + 24)
    # A map makes a third picture of each face.
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "map.png")
    mapped = [Sample(face.path, 1, "uB", human_map=str(tmp_path / "map.png")) for face in faces[:4]]
    bare = [Sample(face.path, 1, "uB") for face in faces[:4]]
    with_maps = sheet_of(detector, Manifest(mapped), out, columns=4)
    without_maps = sheet_of(detector, Manifest(bare), out, columns=4)
    assert with_maps.width - without_maps.width == 4 * 192


def test_a_generator_is_known_as_in_the_results(
    faces: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another of its names, too; and unknown where the data say so."""
    path = faces[0].path
    samples = [Sample(path, 1, "SG2"), Sample(path, 1, "StyleGAN2", test_set="open")]
    samples += [Sample(path, 1, "new", test_set="closed"), Sample(path, 1)]
    drawn: list[tuple[str, str]] = []
    monkeypatch.setattr(
        gallery,
        "contact_sheet",
        lambda *arguments: drawn.extend((row.name, row.note) for row in arguments[2]),
    )
    detector = Detector(image_size=32, training_generators=("StyleGAN2",))
    manifest = Manifest(samples)
    scores = score_images(detector, manifest, batch_size=4, progress=False)
    write_sheet(detector, manifest, scores, Path("sheet.png"), columns=1)
    assert drawn == [
        ("(unnamed)", "unknown generator"),
        ("SG2", "known generator"),
        ("StyleGAN2", "unknown generator"),
        ("new", "known generator"),
    ]
