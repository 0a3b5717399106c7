"""Digests by key, in a file to which several processes may append.

A line is a digest, its key and the CRC-32 of both, in hexadecimal digits. A line that is torn, by
a process that was killed or two at once, or damaged does not count.
"""

import hashlib
import zlib
from collections.abc import Container, Iterable
from pathlib import Path


class DigestList:
    """Digests of 16 bytes by keys of 16 bytes; the last one of a key counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, keys: Container[str] | None = None) -> dict[str, str]:
        """Return the digests by key; none of a file that cannot be read.

        keys: Those that are wanted; None for all.
        """
        digests = {}
        try:
            # A line at a time: a list of millions takes many times its size in memory.
            with self.path.open(errors="replace") as lines:
                for line in lines:
                    digest, key, checksum = line[:32], line[32:64], line[64:].rstrip("\n")
                    if keys is not None and key not in keys:
                        continue
                    if checksum and checksum == _checksum(digest, key):
                        digests[key] = digest
        except OSError:
            return {}
        return digests

    def append(self, digests: Iterable[tuple[str, str]]) -> None:
        """Add pairs of a key and its digest.

        Raises:
            OSError: the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A line feed first: the last line may be torn.
        lines = [f"\n{digest}{key}{_checksum(digest, key)}" for key, digest in digests]
        # In one piece, which what others append at the same time does not tear.
        with self.path.open("ab", buffering=0) as file:
            file.write("".join(lines).encode())


def key_of(content: bytes) -> str:
    """Return a key, or a digest, of 16 bytes in hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _checksum(digest: str, key: str) -> str:
    return f"{zlib.crc32((digest + key).encode()):08x}"
