"""The cache of features: what is written is read, once, also after a kill or a full disk."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from focus.data.cache.features import CachedFaces, Encoded, FeatureCache, FeatureType, digests
from focus.data.dataset import Batch
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError

FACES = Manifest(Sample(f"{n}.png", n % 2, extra={"content_hash": f"{n:032x}"}) for n in range(7))
SHAPE = 3, 2, 4


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureCache:
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path))
    return FeatureCache("net", "its weights", SHAPE, "bfloat16")


def features_of(row_number: int) -> Tensor:
    return torch.arange(24.0).view(SHAPE) + 100 * row_number


def batches(row_numbers: list[int]) -> Iterator[tuple[Batch, Encoded]]:
    """Two images at a time; an even one has a map."""
    for start in range(0, len(row_numbers), 2):
        some = torch.tensor(row_numbers[start : start + 2])
        maps = some[:, None, None].expand(-1, 2, 4).float()
        yield (
            Batch(some, some, maps, some % 2 == 0, some, torch.empty(len(some), 0)),
            (torch.stack([features_of(int(row_number)) for row_number in some]), None, None),
        )


def test_features_and_maps_come_back(cache: FeatureCache) -> None:
    cache.fill(digests(FACES).ravel(), batches, progress=False)
    faces = CachedFaces(cache, FACES)
    batch = faces.batch([5, 0, 5, 2])
    assert batch.images.dtype == torch.bfloat16
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for row_number, features in zip([5, 0, 5, 2], batch.images, strict=True):
        torch.testing.assert_close(features, features_of(row_number).bfloat16(), rtol=0, atol=0)
    assert batch.target.tolist() == [1, 0, 1, 0]
    assert batch.saliency[:, 1, 3].tolist() == [5, 0, 5, 2]
    assert batch.saliency_mask.tolist() == [False, True, False, True]
    assert batch.index.tolist() == [5, 0, 5, 2]


def test_class_token_and_norms_are_kept_beside_them(cache: FeatureCache) -> None:
    cache = FeatureCache("net", "its weights", SHAPE, token=True, norms=True)

    def with_tokens(places: list[int]) -> Iterator[tuple[Batch, Encoded]]:
        for batch, (features, *_) in batches(places):
            norms = batch.index[:, None, None] + torch.full((2, 4), 1 / 3)
            yield batch, (features, batch.index[:, None] + torch.arange(3.0), norms)

    cache.fill(digests(FACES).ravel(), with_tokens, progress=False)
    faces = CachedFaces(cache, FACES)
    assert faces.batch([4, 1]).token.tolist() == [[4, 5, 6], [1, 2, 3]]
    assert faces.norms([4, 1])[:, 1, 3].equal(torch.tensor([4, 1]) + torch.full((2,), 1 / 3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_float32_is_kept_whole(cache: FeatureCache, dtype: FeatureType) -> None:
    cache = FeatureCache("net", "its weights", SHAPE, dtype)
    third = torch.full((1, *SHAPE), 1 / 3)
    batch = next(batches([0]))[0]
    cache.fill(
        digests(Manifest(FACES[:1])).ravel(),
        lambda _: [(batch, (third, None, None))],
        progress=False,
    )
    features = CachedFaces(cache, Manifest(FACES[:1])).batch([0]).images
    assert features.float().equal(third) == (dtype == "float32")


def test_only_what_is_new_is_computed(cache: FeatureCache) -> None:
    cache.fill(digests(Manifest(FACES[2:5])).ravel(), batches, progress=False)
    asked: list[int] = []

    def noted(places: list[int]) -> Iterator[tuple[Batch, Encoded]]:
        asked.extend(places)
        return batches(places)

    twice = Manifest([*FACES, FACES[0]])
    cache.fill(digests(twice).ravel(), noted, progress=False)
    assert asked == [0, 1, 5, 6]
    cache.fill(digests(twice).ravel(), noted, progress=False)
    assert asked == [0, 1, 5, 6]


def test_a_view_and_a_map_have_records_of_their_own() -> None:
    other_map = Sample("0.png", 0, extra={"content_hash": f"{0:032x}", "map_hash": "m"})
    plain = digests(FACES, (), 2)
    names = [*plain.ravel(), *digests(FACES, ("flip",), 2).ravel(), *digests(Manifest([other_map]))]
    assert len(set(map(bytes, names))) == 7 * 4 + 1
    assert (digests(FACES)[:, 0] == plain[:, 0]).all()


def test_other_weights_or_types_have_a_folder_of_their_own(cache: FeatureCache) -> None:
    others = [
        FeatureCache("net", "others", SHAPE, "bfloat16"),
        FeatureCache("net", "its weights", SHAPE, "float32"),
        FeatureCache("net", "its weights", (3, 4, 2), "bfloat16"),
    ]
    assert len({feature_cache.store.folder for feature_cache in [cache, *others]}) == 4


def test_a_full_disk_is_one_sentence(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = digests(FACES).ravel()
    cache.fill(names[:2], batches, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
        with pytest.raises(
            InputError, match=r"No space left.*set FOCUS_CACHE to another folder, or"
        ):
            cache.fill(names, batches)
    assert "features of 5 images" in capsys.readouterr().out
    assert (cache.store.find(names) >= 0).sum() == 2


def test_damaged_features_are_computed_again(
    cache: FeatureCache, caplog: pytest.LogCaptureFixture
) -> None:
    """Four flipped bits would train another head, in every later run."""
    names = digests(FACES).ravel()
    cache.fill(names, batches, progress=False)
    rows_file = cache.store.folder / "rows-2.bin"
    content = bytearray(rows_file.read_bytes())
    content[3 * cache.record.itemsize + 5] ^= 0b1111
    rows_file.write_bytes(content)
    later = FeatureCache("net", "its weights", SHAPE, "bfloat16")
    asked: list[int] = []

    def noted(row_numbers: list[int]) -> Iterator[tuple[Batch, Encoded]]:
        asked.extend(row_numbers)
        return batches(row_numbers)

    later.fill(names, noted, progress=False)
    assert asked == [3]
    assert f"{rows_file} is damaged" in caplog.text
    features = CachedFaces(later, FACES).batch(range(7)).images
    assert features.float().equal(
        torch.stack([features_of(n) for n in range(7)]).bfloat16().float()
    )
    # Cut off while they are used: no wrong feature, and no signal of the system.
    os.truncate(rows_file, 2 * cache.record.itemsize)
    faces = CachedFaces(FeatureCache("net", "its weights", SHAPE, "bfloat16"), FACES)
    with pytest.raises(InputError, match=r"were changed while they were used.*: end what changes"):
        faces.batch([5])
