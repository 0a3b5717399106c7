"""The demo set on disk: rendered on first use, verified by a checksum afterwards."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from focus.data.demo.artefacts import KNOWN_ARTEFACTS
from focus.data.demo.render import REAL_FAMILY, SPLITS, VERSION, Splits, items
from focus.data.demo.storage import Record, files, make_folders, render_share
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, Split, TestSet
from focus.errors import InputError
from focus.runtime.machine import cache_dir, usable_cores
from focus.runtime.progress import progress_bar

_INDEX = "index.json"
_TEST_SETS: dict[str, TestSet] = {
    "closed": "closed",
    "closed_balanced": "closed_balanced",
    "open": "open",
}
_PACKAGE = Path(__file__).parent


def demo_manifest(
    cache: str | Path | None = None,
    *,
    processes: int | None = None,
    progress: bool = True,
    splits: Splits = SPLITS,
) -> Manifest:
    """The demo set's manifest; renders the set on first use (about ten seconds on two cores).

    The files lie in a folder of ``cache`` (default: :func:`focus.runtime.machine.cache_dir`) that
    is named by the set's version and content. A set whose checksum does not match is rendered
    again. ``processes`` render (default: one for each core this process may use); their number does
    not change a byte.

    Images are 64×64 RGB. Training and validation images have human maps; fakes have artefact
    masks, except uSpectrum's: its fingerprint is everywhere, so that pointing is undefined there.
    ``extra`` holds "source" (acquisition source, 0 or 1) and for fakes "known_artefact" ("1" if it
    holds an artefact that training knew) and "artefacts" (names joined by +).

    Raises InputError if the cache folder cannot be written.
    """
    if processes is not None and processes < 1:
        raise InputError(f"Got {processes} processes to render the demo set with: give at least 1.")
    folder = Path(cache or cache_dir()).absolute() / folder_name(splits)
    artefacts = _verified(folder, splits)
    if artefacts is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _lock(folder):
                # Another process may have rendered the set while this one waited.
                artefacts = _verified(folder, splits)
                if artefacts is None:
                    artefacts = _render(folder, splits, processes or usable_cores(), progress)
        except OSError as error:
            raise InputError(
                f"The demo set cannot be written to {folder.parent} ({error}): "
                "free some space there or set FOCUS_CACHE to another folder."
            ) from error
    return _manifest(folder, splits, artefacts)


def folder_name(splits: Splits = SPLITS) -> str:
    """Version, and a hash of what decides the content: the counts and this package's code.

    The code that writes the set elsewhere is no part of it.
    """
    content = hashlib.sha256(json.dumps(splits).encode())
    for path in sorted(set(_PACKAGE.glob("*.py")) - {_PACKAGE / "files.py"}):
        content.update(path.read_bytes())
    return f"demo-v{VERSION}-{content.hexdigest()[:10]}"


def _manifest(folder: Path, splits: Splits, artefacts: list[list[str]]) -> Manifest:
    samples = []
    for item, names in zip(items(splits), artefacts, strict=True):
        paths = {kind: str(folder / name) for kind, name in files(item).items()}
        fake = item.family != REAL_FAMILY
        extra = {"source": str(item.source)}
        if fake:
            extra["known_artefact"] = str(int(not KNOWN_ARTEFACTS.isdisjoint(names)))
            extra["artefacts"] = "+".join(names)
        test_set = _TEST_SETS.get(item.split, "")
        split: Split = "test" if test_set else "train" if item.split == "train" else "validation"
        samples.append(
            Sample(
                path=paths["images"],
                label=SYNTHETIC if fake else REAL,
                generator=item.family if fake else "",
                family=item.family if fake else "",
                split=split,
                test_set=test_set,
                map_path=paths.get("maps"),
                mask_path=paths.get("masks"),
                extra=extra,
            )
        )
    return Manifest(samples, "demo set")


def _checksum(folder: Path, splits: Splits, artefacts: list[list[str]]) -> str:
    """Of the artefacts' names and of all files' bytes, in order."""
    content = hashlib.sha256(json.dumps(artefacts).encode())
    root = str(folder)
    for item in items(splits):
        for name in files(item).values():
            with open(f"{root}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 (twice as fast)
                content.update(file.read())
    return content.hexdigest()


def _verified(folder: Path, splits: Splits) -> list[list[str]] | None:
    """The names of each image's artefacts, or None if the set is absent or damaged."""
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        artefacts: list[list[str]] = index["artefacts"]
        whole = index["sha256"] == _checksum(folder, splits, artefacts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return artefacts if whole else None


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lets one process at a time render, where the file system has locks.

    Without them several may render; the first to finish puts its set in place.
    """
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _render(folder: Path, splits: Splits, processes: int, progress: bool) -> list[list[str]]:
    """Render the set beside its place, then move it there in one step."""
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh = aside / "fresh"
        make_folders(fresh, splits)
        total = sum(1 for _ in items(splits))
        artefacts: list[list[str]] = [[] for _ in range(total)]
        workers = _in_processes if processes > 1 else _in_this_process
        # Closing ends the workers before the folder they write to goes, even on Ctrl-C.
        with (
            progress_bar(
                total=total, desc="rendering demo faces", unit="img", disable=not progress
            ) as bar,
            closing(workers(fresh, splits, processes)) as records,
        ):
            for position, names in records:
                artefacts[position] = list(names)
                bar.update()
        index = {"sha256": _checksum(fresh, splits, artefacts), "artefacts": artefacts}
        (fresh / _INDEX).write_text(json.dumps(index))
        # Where there are no locks, another process may have put its equal set there by now.
        if _verified(folder, splits) is None:
            with suppress(FileNotFoundError):
                folder.rename(aside / "damaged")
            fresh.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return artefacts


def _in_this_process(folder: Path, splits: Splits, processes: int) -> Generator[Record, None, None]:
    yield from render_share(folder, splits, 0, processes)


def _in_processes(folder: Path, splits: Splits, processes: int) -> Generator[Record, None, None]:
    """Records from worker processes, as they come.

    Plain processes, not multiprocessing's: forking a program that has threads can deadlock, and
    its other start methods import the caller's main module (with torch) in every worker.
    """
    records: SimpleQueue[Record | OSError | None] = SimpleQueue()
    job = {"folder": str(folder), "splits": splits, "step": processes}
    workers: list[subprocess.Popen[str]] = []
    with ThreadPoolExecutor(processes) as readers:
        try:
            for start in range(processes):
                workers.append(_start_worker({**job, "start": start}))
                readers.submit(_read, workers[-1], records)
            running = processes
            while running:
                record = records.get()
                if isinstance(record, OSError):
                    raise record
                if record is None:
                    running -= 1
                else:
                    yield record
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def _start_worker(job: dict[str, Any]) -> "subprocess.Popen[str]":
    path = os.pathsep.join(filter(None, [str(_PACKAGE.parents[2]), os.environ.get("PYTHONPATH")]))
    worker = subprocess.Popen(
        [sys.executable, "-m", "focus.data.demo.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert worker.stdin is not None
    # One that has ended already is reported by its exit code.
    with suppress(BrokenPipeError), worker.stdin as stdin:
        json.dump(job, stdin)
    return worker


def _read(worker: "subprocess.Popen[str]", records: "SimpleQueue[Record | OSError | None]") -> None:
    """Pass a worker's records on; None after the last."""
    assert worker.stdout is not None
    with worker.stdout as lines:
        for line in lines:
            record = json.loads(line)
            records.put(OSError(record) if isinstance(record, str) else tuple(record))
    code = worker.wait()
    records.put(OSError(f"a rendering process ended with code {code}") if code else None)
