"""Items and batches: hand-worked maps, augmentation and its determinism, workers."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focus.data.dataset import Batch, FaceDataset, artefact_coverage, load_batches, loader
from focus.data.images import Preprocessing
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError, LostWorkerError
from focus.model.inputs import Normalise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AUGMENTED: dict[str, Any] = {"image_size": 64, "grid": (8, 8), "augment": ("shift", "flip")}


def save(path: Path, pixels: Any) -> str:
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)
    return str(path)


def dataset(samples: list[Sample], **settings: Any) -> FaceDataset:
    names = [name for name in ("image_size", "grid", "fit") if name in settings]
    how = {"image_size": 4, "grid": (2, 2)} | {name: settings.pop(name) for name in names}
    return FaceDataset(Manifest(samples), Preprocessing(**how), **settings)


@pytest.fixture
def faces(tmp_path: Path) -> list[Sample]:
    """Twelve noise images; every second one with a map."""
    rng = np.random.default_rng(1)
    samples = []
    for i in range(12):
        path = save(tmp_path / f"{i}.png", rng.integers(0, 256, (64, 64, 3)))
        heat = save(tmp_path / f"m{i}.png", rng.integers(0, 256, (64, 64)))
        samples.append(Sample(path, i % 2, human_map=heat if i % 2 else None))
    return samples


def test_an_item_by_hand(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3))
    pixels[0, 1] = (255, 51, 102)
    heat = [[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 40, 40], [20, 20, 40, 0]]
    sample = Sample(save(tmp_path / "i.png", pixels), 1, human_map=save(tmp_path / "m.png", heat))
    item = dataset([Sample("/unread"), sample])[1]
    assert item.images.shape == (3, 4, 4)
    assert item.images.dtype == torch.uint8
    images = Normalise(MEAN, STD)(item.images[None])[0]
    expected = [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.4 - 0.406) / 0.225]
    torch.testing.assert_close(images[:, 0, 1], torch.tensor(expected))
    torch.testing.assert_close(images[:, 1, 0], -torch.tensor(MEAN) / torch.tensor(STD))
    # Cell means 0, 10, 20, (40 + 40 + 40 + 0) / 4 = 30, stretched to 0 ... 1.
    torch.testing.assert_close(item.saliency, torch.tensor([[0, 1 / 3], [2 / 3, 1]]))
    assert (item.target.item(), item.saliency_mask.item(), item.index.item()) == (1, True, 1)
    assert item.target.dtype == item.index.dtype == torch.int64
    assert item.saliency_mask.dtype == torch.bool


def test_pixels_have_a_gradient_after_a_prediction_too() -> None:
    normalise = Normalise((0.1, 0.2, 0.3), STD)
    with torch.inference_mode():
        normalise(torch.zeros(1, 3, 2, 2))
    pixels = torch.zeros(1, 3, 2, 2, requires_grad=True)
    normalise(pixels).sum().backward()
    assert pixels.grad is not None
    torch.testing.assert_close(pixels.grad[0, :, 1, 1], 1 / (255 * torch.tensor(STD)))


def test_no_map_a_flat_map_and_no_label(tmp_path: Path) -> None:
    image = save(tmp_path / "i.png", np.zeros((4, 4, 3)))
    # Constant only on the grid.
    checkers = save(tmp_path / "c.png", [[7, 0, 7, 0], [0, 7, 0, 7]] * 2)
    for human_map in (None, checkers):
        item = dataset([Sample(image, human_map=human_map)])[0]
        assert item.target.item() == -1
        assert not item.saliency_mask
        assert item.saliency.tolist() == [[0, 0], [0, 0]]


def fingerprint(batch: Batch) -> dict[int, tuple[float, float]]:
    image_sums = batch.images.double().sum((1, 2, 3)).tolist()
    map_sums = batch.saliency.square().sum((1, 2)).tolist()
    return dict(zip(batch.index.tolist(), zip(image_sums, map_sums, strict=True), strict=True))


def run(data: FaceDataset, rows: list[int], workers: int = 0) -> dict[int, tuple[float, float]]:
    batches = [rows[start : start + 4] for start in range(0, len(rows), 4)]
    loaded = load_batches(loader(data, batches, workers, pinned=False))
    return {k: v for batch in loaded for k, v in fingerprint(batch).items()}


def test_augmentation_depends_on_seed_epoch_and_row_alone(faces: list[Sample]) -> None:
    data = dataset(faces, **AUGMENTED)
    rows = list(range(12))
    first = run(data, rows)
    assert run(data, rows[::-1]) == first
    assert run(data, rows, 2) == first
    assert run(dataset(faces, seed=1, **AUGMENTED), rows) != first
    data.set_epoch(1)
    second = run(data, rows)
    assert sum(second[row] != first[row] for row in rows) >= 9
    # An image that is drawn again in an epoch is changed anew.
    again = [data[3, time].images for time in (0, 1, 2)]
    assert data[3].images.equal(again[0])
    assert not any(again[0].equal(other) for other in again[1:])


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_a_device_ends_what_the_loader_has_begun(faces: list[Sample], fit: str) -> None:
    """Here, the CPU is the device; JPEG, which no device makes, is behind the moves of "squash"."""
    cut = ("cut",) if fit == "crop" else ()
    moves = (*cut, "crop", "shift", "flip")
    how: dict[str, Any] = {"image_size": 48, "grid": (6, 6), "fit": fit}
    rows: list[Any] = list(range(12))
    for names in (moves, (*moves, "blur"), (*moves, "jpeg")):
        whole = dataset(faces, augment=names, **how)[rows]
        data = dataset(faces, augment=names, ends_on_device=True, **how)
        begun = data[rows]
        has_rest = fit == "crop" or "jpeg" not in names
        assert begun.draws.shape == (12, 8 if has_rest else 0)
        assert begun.images.equal(whole.images) != has_rest
        ended = data.finished(begun)
        assert (ended.images.int() - whole.images.int()).abs().max() <= 1
        assert ended.saliency.equal(whole.saliency)


def test_running_workers_see_the_next_epoch(faces: list[Sample]) -> None:
    data, alone = dataset(faces, **AUGMENTED), dataset(faces, **AUGMENTED)
    batches = loader(data, [[*range(6)], [*range(6, 12)]], 1, pinned=False, persistent=True)
    for epoch in (0, 3):
        data.set_epoch(epoch)
        alone.set_epoch(epoch)
        seen = {k: v for batch in load_batches(batches) for k, v in fingerprint(batch).items()}
        assert seen == run(alone, list(range(12)))


def test_a_file_that_fails_in_a_worker_is_named(faces: list[Sample]) -> None:
    Path(faces[5].path).write_bytes(b"overwritten")
    batches = loader(dataset(faces), [[4, 5], [6, 7]], 2, pinned=False)
    with pytest.raises(InputError, match=rf"Cannot decode '{faces[5].path}'") as kept:
        list(load_batches(batches))
    assert not multiprocessing.active_children(), f"though {kept} is at hand, with its frames"


class Signalled(FaceDataset):
    """Its items send a signal to the process that loads them."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        if self.number != signal.SIGKILL or index == 2:
            os.kill(os.getpid(), self.number)
        return index


def loaded(dataset: FaceDataset) -> Iterator[Any]:
    return load_batches(loader(dataset, [0, 1, 2], 1, pinned=False))  # type: ignore[list-item]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_leaves_signals_to_its_parent(number: signal.Signals) -> None:
    """A terminal's Ctrl-C reaches the workers, which the parent needs to finish its step."""
    assert list(loaded(Signalled(number))) == [0, 1, 2]
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_is_one_sentence() -> None:
    """As by a container that has too little memory."""
    with pytest.raises(LostWorkerError, match=r"have failed \(.+\): give --workers 0, or"):
        list(loaded(Signalled(signal.SIGKILL)))


def test_artefact_coverage_by_hand(tmp_path: Path) -> None:
    mask = np.zeros((4, 6))
    mask[0, 0] = mask[1, 4] = mask[1, 5] = 255
    mask[2:, 2:4] = 128  # from half of white on a pixel is covered
    mask[2:, 4:] = 127
    coverage = artefact_coverage(save(tmp_path / "m.png", mask), Preprocessing(4, (2, 3)))
    assert coverage.dtype == np.float32
    np.testing.assert_array_equal(coverage, [[0.25, 0, 0.5], [0, 1, 0]])


def numbered(height: int, width: int) -> np.ndarray:
    """Pixels that say where they are: row, column, and 7."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 7)], 2).astype(np.uint8)


def test_the_middle_of_a_picture_and_of_its_map_by_hand(tmp_path: Path) -> None:
    """Of 9 x 6 pixels rows 2 to 5 and columns 1 to 4; a map is as large as it likes."""
    heat = np.zeros((18, 12))
    heat[4:8, 2:6] = 255  # rows 2 and 3, columns 1 and 2 of the picture: the first cell of its part
    paths = save(tmp_path / "i.png", numbered(9, 6)), save(tmp_path / "m.png", heat)
    item = dataset([Sample(paths[0], 1, human_map=paths[1])], fit="crop")[0]
    assert item.images[0].tolist() == [[row] * 4 for row in (2, 3, 4, 5)]
    assert item.images[1].tolist() == [[1, 2, 3, 4]] * 4
    assert item.saliency.tolist() == [[1, 0], [0, 0]]
    # A perturbation sees the whole picture, at the size that the file has.
    other = dataset([Sample(paths[0])], fit="crop", perturb=lambda image, _: image.rotate(180))[0]
    assert other.images[0].tolist() == [[row] * 4 for row in (6, 5, 4, 3)]
    seen = Preprocessing(4, (2, 2), "crop")
    assert artefact_coverage(paths[1], seen, paths[0]).tolist() == [[1, 0], [0, 0]]
    assert artefact_coverage(paths[1], Preprocessing(4, (2, 2))).tolist() != [[1, 0], [0, 0]]


def test_a_smaller_picture_goes_on_as_its_reflection(tmp_path: Path) -> None:
    heat = np.zeros((3, 2))
    heat[2, 1] = 255
    paths = save(tmp_path / "i.png", numbered(3, 2)), save(tmp_path / "m.png", heat)
    item = dataset([Sample(paths[0], 1, human_map=paths[1])], image_size=6, grid=(6, 6), fit="crop")
    # Two rows before the first and one behind the last; two columns on either side.
    rows, columns = [2, 1, 0, 1, 2, 1], [0, 1, 0, 1, 0, 1]
    assert item[0].images[0].tolist() == [[row] * 6 for row in rows]
    assert item[0].images[1].tolist() == [columns] * 6
    expected = [[float((row, column) == (2, 1)) for column in columns] for row in rows]
    assert item[0].saliency.tolist() == expected


def test_training_cuts_at_random_and_the_map_with_it(tmp_path: Path) -> None:
    pixels = numbered(20, 24)
    heat = np.zeros((20, 24))
    heat[8:14, 9:15] = 255
    paths = save(tmp_path / "i.png", pixels), save(tmp_path / "m.png", heat)
    sample = Sample(paths[0], 1, human_map=paths[1])
    data = dataset([sample], image_size=16, grid=(16, 16), fit="crop", augment=("cut", "flip"))
    corners, mirrored = set(), set()
    for epoch in range(60):
        data.set_epoch(epoch)
        item = data[0]
        rows, columns = item.images[:2].numpy().astype(int)
        # Neighbours stay neighbours: nothing is resampled.
        assert (np.diff(rows, axis=0) == 1).all()
        assert (np.abs(np.diff(columns, axis=1)) == 1).all()
        expected = (rows >= 8) & (rows < 14) & (columns >= 9) & (columns < 15)
        assert (item.saliency.numpy() == expected).all()
        corners.add((rows.min(), columns.min()))
        mirrored.add(bool(columns[0, 0] > columns[0, 1]))
    assert {row for row, _ in corners} == set(range(5))
    assert {column for _, column in corners} == set(range(9))
    assert mirrored == {True, False}
