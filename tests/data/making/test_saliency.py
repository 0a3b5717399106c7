"""Maps without annotators, on faces whose artefact is known, and coarser human maps."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from focus.config.command_line import parse
from focus.config.data import MapsConfig
from focus.data.demo.benchmark import REAL_FACES, Rendering, render_face
from focus.data.file_pass import file_digest
from focus.data.images import BAD_FILES, REPLACED, load_map
from focus.data.making import sources
from focus.data.making.saliency import SIDE, coarse, make_maps, saliency
from focus.data.making.sources import SOURCES
from focus.data.manifest import Manifest, Sample
from focus.data.maps import source_findings
from focus.data.named_files import Role
from focus.errors import InputError

from ..reading import read_data

PATCH = slice(40, 46), slice(10, 16)


def faces(count: int, patched: bool, seed: int = 0) -> NDArray[np.float32]:
    """Sums of four smooth pictures, with grain; the fakes have a chequered patch."""
    down, across = np.mgrid[:SIDE, :SIDE] / SIDE
    basis = np.stack([np.sin(3 * down), np.cos(4 * across), down * across, down**2])
    rng = np.random.default_rng(seed + patched)
    pictures = 0.2 + 0.15 * np.tensordot(rng.random((count, 4)), basis, 1)
    pictures += 0.01 * rng.standard_normal(pictures.shape)
    if patched:
        pictures[:, *PATCH] += 0.1 * (-1) ** np.indices((6, 6)).sum(0)
    return pictures.clip(0, 1).astype(np.float32)


@pytest.mark.parametrize("way", ["pca", "lda"])
def test_a_map_is_brightest_on_the_artefact(way: str) -> None:
    train = np.concatenate([faces(60, False), faces(60, True)]).reshape(120, -1)
    maps = saliency(way, train, np.repeat([0, 1], 60))
    fake_maps = maps(faces(20, True, 9).reshape(20, -1))
    assert fake_maps.shape == (20, SIDE, SIDE)
    rows, columns = np.divmod(fake_maps.reshape(20, -1).argmax(1), SIDE)
    on_it = (abs(rows - 42.5) < 4) & (abs(columns - 12.5) < 4)
    assert on_it.mean() >= 0.9
    if way == "pca":  # by LDA a pixel tells as much for one class as for the other
        plain = maps(faces(20, False, 9).reshape(20, -1))
        assert 2 * plain[:, *PATCH].mean() < fake_maps[:, *PATCH].mean()


def test_coarser_maps_by_hand() -> None:
    values = np.zeros((32, 32), np.float32)
    values[4, 6], values[9, 8], values[20, 20] = 0.8, 0.5, 0.3
    box = coarse(values, "box")
    assert np.argwhere(box)[[0, -1]].tolist() == [[4, 6], [9, 8]]
    assert set(box.ravel().tolist()) == {0, np.float32(0.8)}
    blurred = coarse(values, "blur")
    assert blurred.sum() == pytest.approx(1.6, rel=1e-3)
    assert blurred[4, 8] == pytest.approx(blurred[4, 6] * np.exp(-0.5), rel=0.1)  # sigma is 2
    assert coarse(values, None) is values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty faces of both classes, and a broken file."""
    for name, patched in (("0_real", False), ("1_fake", True)):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number, face in enumerate(faces(40, patched)):
            path = tmp_path / "faces" / name / f"{number}.png"
            Image.fromarray((255 * face).astype(np.uint8)).resize((48, 48)).save(path)
    (tmp_path / "faces" / "0_real" / "bad.png").write_bytes(b"no image")
    return tmp_path / "faces"


def make(*words: object) -> None:
    make_maps(parse(MapsConfig, [str(word) for word in words]))


def test_maps_are_found_beside_the_images_and_are_a_machines(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(folder, "--from", "pca", "--threads", 1)
    maps = folder / "human_maps"
    assert load_map(maps / "1_fake" / "7.png").max() == 1
    said = capsys.readouterr().out
    assert f"80 maps (pca): {maps}\n" in said
    (bad,) = csv.DictReader((maps / "bad_files.csv").open())
    assert Path(bad["path"]).name == "bad.png"
    for manifest in (read_data(folder), read_data(maps / "manifest.csv")):
        mapped = [sample for sample in manifest if sample.human_map]
        assert {s.human_map for s in mapped} == {
            str(maps / Path(s.path).relative_to(folder)) for s in mapped
        }
        assert (len(manifest), len(mapped)) == (81, 80)
        assert {s.extra["map_source"] for s in mapped} == {"pca"}
        (finding,) = source_findings(manifest)
        assert finding.text == "Human maps are machine-made (pca): nobody looked."
    # Coarser ones of them are still a machine's... and of people's maps are people's.
    people = Manifest([Sample("a.png", human_map="b.png", extra={"map_source": "human, box"})])
    assert source_findings(people) == []


def test_what_is_finished_stays_and_the_rest_is_made(folder: Path) -> None:
    words = folder, "--from", "pca", "--threads", 1, "--resume"
    make(*words)
    maps = folder / "human_maps"
    files = [path for path in maps.rglob("*") if path.is_file()]
    whole, kept = {path: path.read_bytes() for path in files}, maps / "0_real" / "1.png"
    written = kept.stat().st_mtime_ns
    (maps / "manifest.csv").unlink()
    (maps / "1_fake" / "7.png").unlink()
    (maps / "1_fake" / "8.png").write_bytes(b"")  # by a power cut
    with pytest.raises(InputError, match="begun by another command or of other images"):
        make(*words, "--granularity", "box")
    make(*words)
    (maps / SOURCES).write_bytes(whole[maps / SOURCES])  # which has two more lines
    assert kept.stat().st_mtime_ns == written
    assert {p: p.read_bytes() for p in maps.rglob("*") if p.is_file()} == whole


def test_no_map_stays_of_a_source_that_was_replaced(folder: Path, tmp_path: Path) -> None:
    (folder / "human_maps" / "1_fake").mkdir(parents=True)
    for number in (3, 4):
        heat = folder / "human_maps" / "1_fake" / f"{number}.png"
        Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(heat)
    boxes = tmp_path / "boxes"
    words = folder, "--granularity", "box", "--output", boxes, "--threads", 1, "--resume"
    make(*words)
    kept = (boxes / "1_fake/4.png").stat().st_mtime_ns
    Image.fromarray(np.eye(16, 8, dtype=np.uint8) * 255).save(folder / "human_maps/1_fake/3.png")
    make(*words)
    assert load_map(boxes / "1_fake/3.png").shape == (16, 8)
    assert (boxes / "1_fake/4.png").stat().st_mtime_ns == kept

    # Maps by PCA are of all training faces: none of the others can be made with these any more.
    shutil.rmtree(folder / "human_maps")
    words = folder, "--from", "pca", "--threads", 1, "--resume"
    make(*words)
    shutil.copy(folder / "1_fake/2.png", folder / "0_real/1.png")
    with pytest.raises(InputError, match="begun by another command or of other images"):
        make(*words)


@pytest.mark.parametrize("way", ["human", "pca"])
def test_no_map_is_made_of_a_file_that_is_replaced_after_its_digest_was_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Put back, it would be taken for what the map was made of, and the map be kept."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    source = folder / "1_fake" / "3.png"
    words: list[object] = [folder, "--from", way, "--threads", 1]
    if way == "human":
        source = folder / "human_maps" / "1_fake" / "3.png"
        source.parent.mkdir(parents=True)
        Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(source)
        words += ["--granularity", "blur"]
    sound, other = source.read_bytes(), tmp_path / "other.png"
    Image.fromarray(np.tri(16, dtype=np.uint8) * 255).save(other)

    def replaced_after(path: str, role: Role) -> str:
        digest = file_digest(path, role)
        if path == str(source):
            shutil.copy(other, source)
        return digest

    with monkeypatch.context() as patched:
        patched.setattr(sources, "file_digest", replaced_after)
        make(*words, "--output", out)
    (bad,) = (row for row in csv.DictReader((out / BAD_FILES).open()) if "bad" not in row["path"])
    assert (bad["path"], bad["reason"]) == (str(source), REPLACED)
    source.write_bytes(sound)
    make(*words, "--output", out, "--resume")
    make(*words, "--output", whole)
    assert (out / "1_fake/3.png").read_bytes() == (whole / "1_fake/3.png").read_bytes()


def test_human_maps_are_made_coarser(folder: Path, tmp_path: Path) -> None:
    (folder / "human_maps" / "1_fake").mkdir(parents=True)
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(folder / "human_maps/1_fake/3.png")
    make(folder, "--granularity", "box", "--output", tmp_path / "boxes", "--threads", 1)
    (written,) = (tmp_path / "boxes").rglob("*.png")
    assert written.relative_to(tmp_path / "boxes") == Path("1_fake/3.png")
    assert load_map(written).min() == 1, "the box of a diagonal is the whole"
    manifest = read_data(tmp_path / "boxes" / "manifest.csv", allow_outside_root=True)
    assert [(s.human_map, s.extra["map_source"]) for s in manifest if s.human_map] == [
        (str(written), "human, box")
    ]
    (folder / "human_maps" / "focus-maps.json").write_text('{"version": 1, "source": "pca"}')
    make(folder, "--granularity", "blur", "--output", tmp_path / "blurred", "--threads", 1)
    manifest = read_data(tmp_path / "blurred" / "manifest.csv", allow_outside_root=True)
    assert {s.extra["map_source"] for s in manifest if s.human_map} == {"pca, blur"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "There are no faces to make maps of: give the PATH"),
        (["FACES"], "Human maps would stay as they are: give --granularity, or --from"),
        (["FACES", "--granularity", "blur"], "lie beside the images: give another --output"),
        (
            ["FACES", "--granularity", "blur", "--output", "FACES/../maps"],
            "has no human maps: give",
        ),
        (["FACES/1_fake", "--from", "pca"], "--from pca has 0 real faces to train on: give 10"),
        (["FACES", "--from", "lda", "--output", "FACES/maps"], "lies in .*faces, where its pict"),
        (["FACES", "--from", "lda", "--output", "FACES/../full"], "holds files already"),
    ],
)
def test_what_cannot_be_made_writes_nothing(folder: Path, words: list[str], message: str) -> None:
    (folder.parent / "full").mkdir()
    (folder.parent / "full" / "thesis.tex").touch()
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(InputError, match=message):
        make(*(word.replace("FACES", str(folder)) for word in words))
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.slow
def test_which_maps_find_the_artefacts_of_the_demo_set() -> None:
    """Those by PCA do better than the mean human map, those by LDA worse, as the docs have it."""
    numbers = range(1, 5)
    fakes = [render_face("train", f"known-{k}", n) for k in numbers for n in range(100)]
    reals = [render_face("train", REAL_FACES, n) for n in range(400)]

    def grey(pictures: list[Rendering]) -> NDArray[np.float32]:
        images = [Image.fromarray(picture.image).convert("L") for picture in pictures]
        return np.stack([np.asarray(image, np.float32).ravel() / 255 for image in images])

    train, labels = grey([*reals, *fakes]), np.repeat([0, 1], 400)
    ways = {way: saliency(way, train, labels) for way in ("pca", "lda")}
    mean = np.mean([picture.human_map for picture in fakes if picture.human_map is not None], 0)

    shares: list[list[float]] = []

    def hits(kind: str) -> list[float]:
        shown = [render_face("open", f"{kind}-{k}", n) for k in numbers for n in range(25)]
        masks = np.stack([picture.mask for picture in shown if picture.mask is not None])
        maps = [np.broadcast_to(mean, masks.shape), *(of(grey(shown)) for of in ways.values())]
        peaks = [way_maps.reshape(len(way_maps), -1).argmax(1) for way_maps in maps]
        flat = masks.reshape(len(masks), -1)
        shares.append([(way_maps * masks).sum() / way_maps.sum() for way_maps in maps])
        return [float(flat[np.arange(len(flat)), peak].mean()) for peak in peaks]

    document = (Path(__file__).parents[3] / "docs" / "making-data.md").read_text()
    rows = [
        line for line in document.splitlines() if re.match(r"\| (mean human map|`--from)", line)
    ]
    table = [row.split("|")[2:-1] for row in rows]
    told = np.array([[float(cell.strip(" *")) for cell in row] for row in table])
    hit_rates = np.array([hits(kind) for kind in ("known", "recombined", "near", "far")]).T
    np.testing.assert_allclose(hit_rates, told, atol=0.02)
    assert (hit_rates[1] > hit_rates[0]).all()
    assert hit_rates[2].mean() < hit_rates[0].mean()
    assert all(pca < of_mean for of_mean, pca, _ in shares), "but not as a whole"
