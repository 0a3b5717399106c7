"""Digests by key, in a file to which several processes may append.

A line is a digest, its key and the CRC-32 of both, in hexadecimal digits. A line that is torn, by
a process that was killed or two at once, or damaged does not count.
"""

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2**20  # bytes


class DigestList:
    """Digests of 16 bytes by keys of 16 bytes; the last one of a key counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """Return the digests by key; none of a file that cannot be read."""
        digests = {}
        try:
            with self.path.open("rb") as lines:
                for line in lines:
                    entry = _Entry.of(line)
                    if entry.is_whole:
                        digests[entry.key.decode()] = entry.digest.decode()
        except OSError:
            return {}
        return digests

    def find(self, keys: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
        """Return the digest of each key [N], b"" for those that are not there or are b"".

        keys: Distinct ones of type ``S32``, but for b"".
        """
        digests = np.zeros(len(keys), "S32")
        if not len(keys):
            return digests
        order = np.argsort(keys)
        sorted_keys = keys[order]
        try:
            with self.path.open("rb") as file:
                # A part at a time: a list of millions takes many times its size in memory.
                while lines := file.readlines(_BLOCK):
                    keys_of_lines = np.array([line[32:64] for line in lines], "S32")
                    positions = np.searchsorted(sorted_keys, keys_of_lines).clip(0, len(keys) - 1)
                    is_wanted = sorted_keys[positions] == keys_of_lines
                    for row in np.flatnonzero(is_wanted).tolist():
                        entry = _Entry.of(lines[row])
                        if entry.is_whole:
                            digests[order[positions[row]]] = entry.digest
        except OSError:
            return np.zeros(len(keys), "S32")
        return digests

    def append(self, digests: Iterable[tuple[str, str]]) -> None:
        """Add pairs of a key and its digest.

        Raises:
            OSError: the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A line feed first: the last line may be torn.
        lines = [
            b"\n%s%s%s" % (digest.encode(), key.encode(), _checksum(digest.encode(), key.encode()))
            for key, digest in digests
        ]
        # In one piece, which what others append at the same time does not tear.
        with self.path.open("ab", buffering=0) as file:
            file.write(b"".join(lines))


def key_of(content: bytes) -> str:
    """Return a key, or a digest, of 16 bytes in hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class _Entry(NamedTuple):
    """What a line says."""

    digest: bytes
    key: bytes
    checksum: bytes

    @classmethod
    def of(cls, line: bytes) -> Self:
        return cls(line[:32], line[32:64], line[64:].rstrip(b"\n"))

    @property
    def is_whole(self) -> bool:
        """Whether the line is as it was written."""
        return bool(self.checksum) and self.checksum == _checksum(self.digest, self.key)


def _checksum(digest: bytes, key: bytes) -> bytes:
    return b"%08x" % zlib.crc32(digest + key)
