"""Digests by key, in a file to which several processes may append.

A line is a digest, its key and the CRC-32 of both, in hexadecimal digits. A line that is torn, by
a process that was killed or two at once, or damaged does not count.
"""

import hashlib
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

_LINE = re.compile("^([0-9a-f]{32})([0-9a-f]{32})([0-9a-f]{8})$", re.MULTILINE)


class DigestList:
    """Digests of 16 bytes by keys of 16 bytes; the last one of a key counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """Return the digests by key; none of a file that cannot be read."""
        try:
            text = self.path.read_text(errors="replace")
        except OSError:
            return {}
        return {
            key: digest
            for digest, key, checksum in _LINE.findall(text)
            if checksum == _checksum(digest, key)
        }

    def append(self, digests: Iterable[tuple[str, str]]) -> None:
        """Add pairs of a key and its digest.

        Raises:
            OSError: the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A line feed first: the last line may be torn.
        lines = [f"\n{digest}{key}{_checksum(digest, key)}" for key, digest in digests]
        with self.path.open("a") as file:
            file.writelines(lines)


def key_of(content: bytes) -> str:
    """Return a key, or a digest, of 16 bytes in hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _checksum(digest: str, key: str) -> str:
    return f"{zlib.crc32((digest + key).encode()):08x}"
