"""What listing the folders of paths tells is what a look at each path tells."""

import os
from pathlib import Path

import numpy as np
import pytest

from focus.data import listed_files as module
from focus.data.columns import PathColumn
from focus.data.listed_files import listed_files
from focus.data.manifest import Manifest, Sample, file_key

from .trees import write

FEW = module._FEWEST_LISTED


def hard_paths(root: Path) -> list[str]:
    """Write files and links, and return their paths with those of files that are not there."""
    many = {f"many/{number}.png": "" for number in range(3 * FEW)}
    links = {
        "many/file ->": f"{root}/many/0.png",
        "many/nowhere ->": f"{root}/many/nowhere at all",
        "many/up ->": f"{root}/few",
        "few/file ->": f"{root}/many/1.png",
        "linked ->": f"{root}/many",
        "circle ->": f"{root}/circle",
    }
    write({**many, **links, "few/漢字 é.png": "", "few/.hidden": ""}, root)
    (root / os.fsdecode(b"many/latin1-\xe9.png")).touch()
    names = [*many, "many/file", "many/nowhere", "many/up", "few/file", "few/漢字 é.png", "few"]
    names += ["few/.hidden", os.fsdecode(b"many/latin1-\xe9.png"), "circle", "circle/a.png"]
    names += ["many/missing.png", "many/0.PNG", "few/missing.png", "nowhere/a.png", "many/\0.png"]
    names += [f"nowhere at all/{number}.png" for number in range(2 * FEW)]
    names += [f"linked/{number}.png" for number in range(2, 2 * FEW)]
    names += ["many/half-\ud83d.png", "few/half-\ud83d.png", "many", "many/0.png/a.png"]
    return [*(f"{root}/{name}" for name in names), "/", "no folder.png", f"{root}//few/file"]


@pytest.mark.parametrize("entries", [0, 1000])
def test_files_and_links_are_those_that_a_look_at_each_finds(
    entries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a folder that holds many more files than are asked for."""
    monkeypatch.setattr(module, "_MORE_ENTRIES", entries)
    monkeypatch.setattr(module, "_MOST_ENTRIES", 1 if entries == 0 else 4)
    paths = hard_paths(tmp_path)
    column = PathColumn()
    for path in paths:
        column.append(path)
    files = listed_files(column)
    assert files.is_there.tolist() == [os.path.lexists(path) for path in paths]
    assert files.is_link.tolist() == [os.path.islink(path) for path in paths]  # noqa: PTH114 - of "", NUL and the like too
    assert 0 < files.is_link.sum() < files.is_there.sum() < len(paths)
    assert listed_files(column) is files


def test_files_on_a_slow_disk_are_looked_for_by_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLOW", 0)
    paths = hard_paths(tmp_path)
    column = PathColumn()
    column.extend([path for path in paths if path.startswith(str(tmp_path))])
    whole = listed_files(column)
    column = PathColumn()
    column.extend([os.path.relpath(path, tmp_path) for path in paths[:20]], f"{tmp_path}/")
    assert listed_files(column).is_there.tolist() == whole.is_there[:20].tolist()
    assert whole.is_there.sum() > 2 * FEW


def test_hashes_are_equal_where_the_files_are(tmp_path: Path) -> None:
    """By whatever link, in any manifest, and where a path is there twice."""
    paths = [path for path in hard_paths(tmp_path) if "\0" not in path]
    manifests = [Manifest(map(Sample, part)) for part in (paths, paths[::-3], ["/", "/a.png"])]
    manifests.append(manifests[0][5:9] + manifests[1])
    hashes = np.concatenate([manifest.file_hashes() for manifest in manifests]).tolist()
    keys = [file_key(sample.path) for manifest in manifests for sample in manifest]
    assert len({*hashes}) == len({*keys}) == len({*zip(hashes, keys, strict=True)})
