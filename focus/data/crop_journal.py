"""What a crop has found so far, in its folder, so that one that was stopped can go on.

``crop.jsonl`` says in its first line how the crop was begun; then comes a line for each image
without a face, as it is found. Of the others the files themselves tell. ``docs/formats.md``
describes it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from focus.errors import InputError
from focus.runtime.files import lock

JOURNAL = "crop.jsonl"
_VERSION = 1


class Journal:
    """Of one folder, open for what is found; begun where there is none yet.

    without_face: by the name that the face's file would have, why there is none.

    Raises InputError where the folder's journal is of other data or another geometry, or is none,
    and where another process writes to the folder.
    """

    def __init__(self, folder: Path, geometry: str, data: str) -> None:
        """geometry: how faces are cut out. data: a digest of what is cut out of what."""
        self._path = folder / JOURNAL
        self.without_face: dict[str, str] = {}
        self._file = self._path.open("a+b")
        if not lock(self._file):
            raise InputError(
                f"Another process cuts faces into {folder}: wait for its end, or give another "
                "--output."
            )
        self._file.seek(0)
        content = self._file.read()
        # A kill or a full disk can leave part of the last line.
        whole = content[: content.rfind(b"\n") + 1]
        begun = {"focus_crop": _VERSION, "geometry": geometry, "data": data}
        if whole:
            self._take_up(whole, begun)
        self._file.truncate(len(whole))
        if not whole:
            self._add(begun)

    def close(self) -> None:
        """Unlocks it, too."""
        self._file.close()

    def note(self, name: str, reason: str) -> None:
        """Remember that an image has no face."""
        self.without_face[name] = reason
        self._add({"name": name, "reason": reason})

    def _add(self, line: Mapping[str, object]) -> None:
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()  # so that a kill loses no line
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _take_up(self, content: bytes, begun: Mapping[str, object]) -> None:
        try:
            head, *lines = map(json.loads, content.splitlines())
            found = {key: head[key] for key in begun}
            self.without_face = {line["name"]: line["reason"] for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._path} is no record of a crop ({type(error).__name__}: {error}): give "
                "another --output."
            ) from error
        for key, what in (("focus_crop", "version "), ("geometry", "")):
            if found[key] != begun[key]:
                raise InputError(
                    f"The crop in {self._path.parent} was begun with {what}{found[key]!r}, not "
                    f"with {begun[key]!r}: give the same, or another --output."
                )
        if found["data"] != begun["data"]:
            raise InputError(
                f"The crop in {self._path.parent} was begun with other data: give the same, or "
                "another --output."
            )
