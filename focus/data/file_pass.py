"""The pass over all files: each is decoded once, and what it holds is kept for whoever wants it.

The processes of a launch share it. Those that have one folder of decoded images divide the files
among themselves, and so each machine with a folder of its own fills it; what each has found all of
them know at the end. A pass that was killed goes on from what is on the disk.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.data.cache.images import KINDS, ImageCache, Room
from focus.data.images import load_image, load_map, pixel_limit, reason
from focus.data.known_images import content_hash
from focus.data.maps import (
    Map,
    files_of,
    human_map,
    is_blank,
    is_drawing,
    is_faint,
    looks_inverted,
    read_coco,
)
from focus.data.named_files import NamedFiles, Role, blocks
from focus.data.signatures import SignatureStore, signature
from focus.errors import ImageError, InputError
from focus.runtime.digests import DigestList, key_of
from focus.runtime.machine import local_processes, usable_cores
from focus.runtime.processes import Processes
from focus.runtime.rows import Names, names_of

_log = logging.getLogger(__name__)
_AHEAD = 1024  # files decoded before those that are kept on the disk
_STORED_EVERY = 512  # files, so that a pass of an hour that is killed goes on from there
_SENT_AT_ONCE = 8192  # signatures


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that cannot be decoded.

    reason: what the decoder said, one line. stored_in: the row of a table that holds it, if any.
    """

    path: str
    role: Role
    reason: str
    stored_in: str = ""

    @property
    def place(self) -> str:
        """Where a person finds it."""
        return self.stored_in or self.path

    @classmethod
    def of(cls, path: str, role: Role, error: ImageError) -> Self:
        """Take the decoder's own error where ``error`` was raised from one."""
        return cls(path, role, reason(path, error.__cause__ or error))


Quality = Literal["good", "blank", "coloured", "inverted", "faint"]
_QUALITIES: tuple[Quality, ...] = get_args(Quality)
_BAD = len(_QUALITIES)
Verdict = BadFile | Quality


class _Look(NamedTuple):
    """One look at a file: its key, digest and verdict, and what is kept of it."""

    key: str
    digest: str
    verdict: Verdict
    row: NDArray[Any] | None
    signature: NDArray[np.int16] | None


class Looks:
    """What a pass found in each of its files, by their numbers; 33 bytes a file."""

    def __init__(self, count: int) -> None:
        self._digests = np.zeros(count, "S32")  # hexadecimal
        self._codes = np.zeros(count, np.uint8)  # positions in _QUALITIES, or _BAD
        self.bad: dict[int, BadFile] = {}
        """The files that cannot be decoded, in their order."""

    @classmethod
    def joined(cls, parts: "Sequence[Self]", part_of: NDArray[np.int64]) -> Self:
        """Return the looks at all files; part_of: The position of each one's part [N]."""
        if len(parts) == 1:
            return parts[0]
        looks = cls(len(part_of))
        bad: dict[int, BadFile] = {}
        for position, part in enumerate(parts):
            numbers = np.flatnonzero(part_of == position)
            looks._digests[numbers] = part._digests
            looks._codes[numbers] = part._codes
            bad |= {int(numbers[number]): file for number, file in part.bad.items()}
        looks.bad = dict(sorted(bad.items()))
        return looks

    def record_good(self, digests: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Record the digests of good files, b"" for those that are not known; tell which are."""
        is_good: NDArray[np.bool_] = digests != b""
        self._digests[is_good] = digests[is_good]
        return is_good

    def record(self, number: int, digest: str, verdict: Verdict) -> None:
        """Record what a file holds and what is wrong with it."""
        self._digests[number] = digest.encode()
        if isinstance(verdict, BadFile):
            self._codes[number] = _BAD
            self.bad[number] = verdict
        else:
            self._codes[number] = _QUALITIES.index(verdict)

    def digest(self, number: int) -> str:
        """Return the digest of a file, 32 hexadecimal digits; "" for none."""
        digest: bytes = self._digests[number]
        return digest.decode()

    def among(
        self, has: Callable[[Names], NDArray[np.bool_]], numbers: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Tell of which of these files a store has the digest, [N]; has: What it says of some."""
        parts = [has(names_of(map(self.digest, block.tolist()))) for block in blocks(numbers)]
        return np.concatenate([np.zeros(0, bool), *parts])

    def have_digest(self) -> NDArray[np.bool_]:
        """Tell which files have a digest, [N]."""
        have_digest: NDArray[np.bool_] = self._digests != b""
        return have_digest

    def are_usable(self) -> NDArray[np.bool_]:
        """Return which files can be decoded and are not blank [N]."""
        usable: NDArray[np.bool_] = (self._codes != _BAD) & (
            self._codes != _QUALITIES.index("blank")
        )
        return usable

    def of_quality(self, quality: Quality) -> list[int]:
        """Return the numbers of the files that are like that."""
        numbers: list[int] = np.flatnonzero(self._codes == _QUALITIES.index(quality)).tolist()
        return numbers

    def first_difference(self, other: "Looks") -> int | None:
        """Return the number of the first file that is another one in ``other``; None for none."""
        differs = (self._digests != other._digests) | (self._codes != other._codes)
        return int(differs.argmax()) if differs.any() else None


@dataclass(frozen=True)
class Stores:
    """Where a pass keeps what it finds.

    files: Keys of good files and their digests. images: The decoded images, if they are kept.
    signatures: What the pictures look like, if that is wanted.
    """

    files: DigestList
    images: ImageCache | None = None
    signatures: SignatureStore | None = None


def look_at(files: NamedFiles, stores: Stores, processes: Processes, *, progress: bool) -> Looks:
    """Return what is in the files; the stores take what is decoded.

    progress: Whether the main process shows a bar, and a process of each folder of decoded images a
    line that says what they will take.

    Raises:
        InputError: a file is another one, or cannot be decoded, on one of several machines.
    """
    sharing = _sharing(files, stores.images, processes)
    is_mine = _divided(files, len(sharing)) == sharing.index(processes.rank)
    my_files = files.taken(np.flatnonzero(is_mine))
    part = _Part(my_files, stores, processes, sharing)
    gathered = processes.gather((tuple(sharing), part.look(progress=progress)))
    ranks_of_main = gathered[0][0]
    looks_by_ranks = {
        ranks: Looks.joined([gathered[rank][1] for rank in ranks], _divided(files, len(ranks)))
        for ranks in dict.fromkeys(ranks for ranks, _ in gathered)
    }
    looks = looks_by_ranks.pop(ranks_of_main)
    for ranks, looks_of_others in looks_by_ranks.items():
        _refuse_differences(files, looks, looks_of_others, ranks)
    if stores.signatures is not None and processes.count > 1:
        _send_signatures(files, looks, stores.signatures, ranks_of_main, processes)
    return looks


def _sharing(files: NamedFiles, images: ImageCache | None, processes: Processes) -> list[int]:
    """Return the numbers of the processes that divide the files: those with this folder of images.

    Processes that keep none divide them, too, on whatever machines they are.
    """
    folder = None
    if images is not None and processes.count > 1:
        kinds = files.counts().keys() & KINDS.keys()
        folder = images.folder if images.is_writable(kinds) else None
    return processes.sharing(folder)


def _divided(files: NamedFiles, count: int) -> NDArray[np.int64]:
    """Return to which of so many parts each file belongs [N].

    Each has as many files of a role as the others, since an image takes longer than a map.
    """
    part_of = np.zeros(len(files), np.int64)
    for role in files.counts():
        numbers = np.flatnonzero(files.have_role(role))
        part_of[numbers] = np.arange(len(numbers)) % count
    return part_of


class _Part:
    """The files that one process looks at, of those of all that share its folder of images.

    Numbers of files are those in this part.
    """

    def __init__(
        self, files: NamedFiles, stores: Stores, processes: Processes, sharing: Sequence[int]
    ) -> None:
        self._files, self._stores = files, stores
        self._processes, self._sharing = processes, sharing
        self._looks = Looks(len(files))
        self._is_good = np.zeros(len(files), bool)  # as an earlier pass knew
        self._pending: list[tuple[str, str]] = []  # keys and digests that wait to be written
        self._unwritten = 0  # looks since anything was written

    def look(self, *, progress: bool) -> Looks:
        """Return what is in the files."""
        threads = usable_cores()
        if self._processes.count > 1:
            threads = max(1, threads // local_processes())
        with ThreadPool(threads) as pool:
            self._is_good = self._looks.record_good(self._stores.files.find(self._keys(pool)))
            is_kept = self._to_keep(pool, progress=progress)
            # Bad ones are looked at again.
            todo = np.flatnonzero(~self._is_good | is_kept | self._lacks_signature())
            with self._processes.progress(
                initial=len(self._files) - len(todo),
                total=len(self._files),
                show=progress,
                desc="checking files",
                unit="file",
            ) as count_one:
                try:
                    for number, look in self._decoded(pool, todo, is_kept):
                        self._keep(number, look)
                        count_one()
                finally:  # Ctrl-C keeps what was found
                    self._flush()
                self._processes.gather(None)  # the bar shows what the others do
        return self._looks

    def _keys(self, pool: ThreadPool) -> NDArray[np.bytes_]:
        """Return the key of each file, hexadecimal digits [N], b"" where it cannot be read."""
        keys = np.zeros(len(self._files), "S32")
        for numbers in blocks(np.arange(len(self._files))):
            files = [self._files[number] for number in numbers.tolist()]
            keys[numbers] = pool.starmap(_key, files, chunksize=256)
        return keys

    def _to_keep(self, pool: ThreadPool, *, progress: bool) -> NDArray[np.bool_]:
        """Return which files are decoded into the folder of images: what it lacks and has room for.

        A line says how much all that share the folder will put there.
        """
        images = self._stores.images
        is_kept = np.zeros(len(self._files), bool)
        wanted = np.zeros(0, np.int64) if images is None else self._lacking(images)
        sizes = np.zeros(len(wanted), np.int64)
        if images is not None:
            for positions in blocks(np.arange(len(wanted))):
                files = [self._files[number] for number in wanted[positions].tolist()]
                sizes[positions] = pool.starmap(images.bytes_of, files, chunksize=256)
        kinds = {*self._files.taken(wanted).counts()}
        requests = self._processes.gather((int(sizes.sum()), kinds, progress))
        of_sharing = [requests[rank] for rank in self._sharing]
        size = sum(size for size, _, _ in of_sharing)
        all_kinds = set[str]().union(*(kinds for _, kinds, _ in of_sharing))
        room: Room | None = None
        first = self._sharing[0]
        if images is not None and all_kinds and self._processes.rank == first:
            room = images.room(size, all_kinds)
            if room is not None and any(show for _, _, show in requests):
                print(images.announcement(room), flush=True)
        room = self._processes.gather(room)[first]
        if images is None or not len(wanted):
            return is_kept
        images.keep(room is not None)
        if room is not None:
            # Of a folder without room for all each process fills its part.
            allowed = room.allowed * int(sizes.sum()) // max(1, size)
            is_kept[wanted[np.cumsum(sizes) <= allowed]] = True
        return is_kept

    def _lacking(self, images: ImageCache) -> NDArray[np.int64]:
        """Return the files that ``images`` keeps when they are decoded, but has not yet."""
        lacks = np.zeros(len(self._files), bool)
        for kind in KINDS:
            lacks |= self._files.have_role(kind) & ~self._is_good
            numbers = self._good_of(kind)
            lacks[numbers] = ~self._looks.among(partial(images.has, kind), numbers)
        return np.flatnonzero(lacks)

    def _lacks_signature(self) -> NDArray[np.bool_]:
        """Return which files are images known to be good without a signature, if one is wanted."""
        lacks = np.zeros(len(self._files), bool)
        if self._stores.signatures is not None:
            numbers = self._good_of("image")
            lacks[numbers] = ~self._looks.among(self._stores.signatures.has, numbers)
        return lacks

    def _good_of(self, role: str) -> NDArray[np.int64]:
        """Return the files of a role that are known to be good."""
        return np.flatnonzero(self._is_good & self._files.have_role(role))

    def _decoded(
        self, pool: ThreadPool, todo: NDArray[np.int64], is_kept: NDArray[np.bool_]
    ) -> Iterator[tuple[int, _Look]]:
        """Yield the number of each of these files and a look at it."""
        images = self._stores.images
        # A part at a time: where the disk is slower than the cores, what is decoded would pile up.
        ahead = _AHEAD
        if images is not None and images.image_size is None:  # whose pictures may be large
            ahead = 4 * usable_cores()
        for start in range(0, len(todo), ahead):
            numbers = todo[start : start + ahead].tolist()
            looks = pool.imap(lambda n: self._look(n, keep=bool(is_kept[n])), numbers, 8)
            yield from zip(numbers, looks, strict=True)

    def _look(self, number: int, *, keep: bool) -> _Look:
        path, role = self._files[number]
        key = _key(path, role)
        verdict, values = decoded(path, role)
        row = None
        if keep and self._stores.images is not None:
            row = self._stores.images.row(role, values)
        of_picture = None
        if self._stores.signatures is not None and isinstance(values, Image.Image):
            of_picture = signature(values)
        digest = file_digest(path, role)
        # What was replaced meanwhile may be another file than the one that was decoded.
        if key != _key(path, role):
            key, of_picture = "", None
        return _Look(key, digest, verdict, row, of_picture)

    def _keep(self, number: int, look: _Look) -> None:
        """Record a look, and keep what it found for the next program."""
        role = self._files[number][1]
        self._looks.record(number, look.digest, look.verdict)
        if look.key and self._stores.images is not None and look.row is not None:
            self._stores.images.add(role, look.digest, look.row)
        if look.digest and self._stores.signatures is not None and look.signature is not None:
            self._stores.signatures.add(look.digest, look.signature)
        if look.key and look.verdict == "good" and not self._is_good[number]:
            self._pending.append((look.key, look.digest))
        self._unwritten += 1
        if self._unwritten >= _STORED_EVERY:
            self._flush()

    def _flush(self) -> None:
        """Write what was found to the disk."""
        self._unwritten = 0
        if self._stores.images is not None:
            self._stores.images.flush()
        if self._stores.signatures is not None:
            self._stores.signatures.flush()
        try:
            self._stores.files.append(self._pending)
        except OSError as error:
            path = self._stores.files.path
            _log.warning("cannot remember the checked files in %s: %s", path, error)
        self._pending = []


def _refuse_differences(
    files: NamedFiles, of_main: Looks, other: Looks, ranks: Sequence[int]
) -> None:
    """Raise InputError for the first file that is another one for processes of other machines.

    ranks: The numbers of those that divided ``other`` among themselves.
    """
    number = of_main.first_difference(other)
    if number is None:
        return
    path, role = files[number]
    rank = ranks[_divided(files, len(ranks))[number]]
    difference = f"process {rank} finds another file there than process 0"
    if number in other.bad and number not in of_main.bad:
        difference = f"process {rank} cannot decode it ({other.bad[number].reason}), process 0 can"
    elif number in of_main.bad and number not in other.bad:
        difference = (
            f"process 0 cannot decode it ({of_main.bad[number].reason}), process {rank} can"
        )
    raise InputError(f"The {role} {path!r}: {difference}; give all machines the same files.")


def _send_signatures(
    files: NamedFiles,
    looks: Looks,
    signatures: SignatureStore,
    ranks: Sequence[int],
    processes: Processes,
) -> None:
    """Give the main process, which compares the pictures, the signatures that its cache lacks.

    So it is where others have another cache, or none that they could write to. ranks: The numbers
    of the processes that divided the files with the main process.
    """

    def lacking() -> NDArray[np.int64]:
        images = np.flatnonzero(files.have_role("image") & looks.have_digest())
        return images[~looks.among(signatures.has, images)]

    wanted = processes.from_main(lacking)
    ranks_of_files = np.array(ranks)[_divided(files, len(ranks))]
    for start in range(0, len(wanted), _SENT_AT_ONCE):
        digests = [
            looks.digest(number)
            for number in wanted[start : start + _SENT_AT_ONCE].tolist()
            if ranks_of_files[number] == processes.rank
        ]
        names = names_of(digests)
        is_mine = signatures.has(names)
        mine = [digest for digest, has in zip(digests, is_mine, strict=True) if has]
        for sent, rows in processes.gather((mine, signatures.read(names[is_mine]))):
            if processes.is_main:
                for digest, row in zip(sent, rows, strict=True):
                    signatures.add(digest, row)
    if processes.is_main:
        signatures.flush()


def decoded(path: str, role: Role) -> tuple[Verdict, Image.Image | Map | None]:
    """Decode a file; return what is wrong with it, and what it holds (None if it is bad)."""
    coloured: list[str] = []
    try:
        if role == "image":
            return "good", load_image(path)
        values = load_map(path) if role == "mask" else human_map(path, coloured=coloured)
    except ImageError as error:
        return BadFile.of(path, role, error), None
    verdict: Verdict = "good"
    if role == "mask":
        verdict = "faint" if is_faint(values) else "good"
    elif is_blank(values):
        verdict = "blank"
    elif coloured:
        verdict = "coloured"
    elif looks_inverted(values):
        verdict = "inverted"
    return verdict, values


def file_digest(path: str, role: Role) -> str:
    """Return a digest of what a file holds, of a map in a COCO file of its shapes; "" for none."""
    if role != "map":
        return content_hash(path)
    if not is_drawing(path):
        return content_hash(*files_of(path))
    file, _, number = path.rpartition("#")  # which may hold the shapes of all images
    try:
        return read_coco(file)[number].digest()
    except (OSError, ValueError, KeyError):
        return ""


def _key(path: str, role: Role) -> str:
    """Return a digest of path, role, limit and what tells that a file is unchanged; "" for none.

    Size and time of the content can be the same for another one (tar, rsync -t); the time of the
    last change of the file and its place on the disk cannot.
    """
    # With os, as a million Path objects take seconds.
    absolute_path = os.path.abspath(path)  # noqa: PTH100
    key = b"%s %d\0%s" % (role.encode(), pixel_limit(), os.fsencode(absolute_path))
    try:
        for part in files_of(path) if role == "map" else [path]:
            status = os.stat(part)  # noqa: PTH116
            key += b"\0%d %d %d %d %d" % (
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_ino,
                status.st_dev,
            )
    except (OSError, ValueError):
        return ""
    return key_of(key)
