"""Images that a table holds as bytes: each content becomes one file of the cache."""

import hashlib

from focus.errors import InputError
from focus.runtime.files import atomic_write
from focus.runtime.machine import cache_dir

_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


def store(content: bytes) -> str:
    """The path of the file with this content, written unless it is there whole.

    Its name is the content's SHA-256, in a folder of :func:`focus.runtime.machine.cache_dir`, with
    the extension of its format, ``.img`` if that is none of the usual. Raises InputError.
    """
    digest = hashlib.sha256(content).hexdigest()
    path = cache_dir().absolute() / "embedded" / digest[:2] / f"{digest}{_extension(content)}"
    try:
        if not path.is_file() or path.stat().st_size != len(content):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, flushed=False) as aside:  # there may be a million
                aside.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"An embedded image cannot be written to {path.parent} ({error.strerror}): free some "
            "space there or set FOCUS_CACHE to another folder."
        ) from error
    return str(path)


def _extension(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((ext for start, ext in _BEGINNINGS.items() if content.startswith(start)), ".img")
