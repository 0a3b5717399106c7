"""Remember what the files of a made folder were made of, so that ``--resume`` makes no use of those
whose source was replaced.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from focus.data.file_pass import file_digest
from focus.data.named_files import Role
from focus.runtime.digests import DigestList, key_of

SOURCES = "sources.txt"


class Sources:
    """The digest of what each file in a folder was made of, by the file's name there."""

    def __init__(self, folder: Path) -> None:
        self._list = DigestList(folder / SOURCES)
        self._digests = self._list.read()

    def digest_of(self, name: str) -> str:
        """Return the digest that was recorded for a name, "" if there is none."""
        return self._digests.get(key_of(os.fsencode(name)), "")

    def record(self, name: str, digest: str) -> None:
        """Record what the file of that name was made of; it is on the disk before this line."""
        self._list.append([(key_of(os.fsencode(name)), digest)])


def file_digests(files: Mapping[Role, str]) -> dict[Role, str]:
    """Return a digest of each of the files that something is made of.

    What is decoded afterwards has to be compared with it, as the file may be replaced meanwhile.
    """
    return {role: file_digest(path, role) for role, path in files.items()}


def source_digest(digests: Mapping[Role, str]) -> str:
    """Return one digest of what :func:`file_digests` returned."""
    return key_of(repr([*digests.items()]).encode())
