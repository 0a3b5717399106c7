"""Exceptions for what a user can fix, and helpers for their messages."""

import difflib
import re
from collections.abc import Iterable, Sequence

# CUDA's, HIP's, cuDNN's and cuBLAS's own, and that of torch on a CPU.
_OUT_OF_MEMORY = re.compile(r"out of memory|_STATUS_\w*ALLOC\w*_FAILED|DefaultCPUAllocator")


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence: what was got, where, and what to do. The programs print it as a
    single line and exit with code 2; a traceback is shown with ``--debug`` only.

    Examples:
        >>> from focus import InputError, TrainConfig
        >>> try:
        ...     TrainConfig.of(epochs=-1)
        ... except InputError as error:
        ...     print(error)
        --epochs must be at least 1, got -1.
    """


class OneProcessError(InputError):
    """What one process of several meets in the midst of a run, so whichever it is says it."""


class ImageError(OneProcessError):
    """An image that cannot be used."""


class UnreadableError(ImageError):
    """A file that cannot be decoded."""


class LostWorkerError(OneProcessError):
    """A process that loads images was lost, or has no memory left to hand them over in."""


class FullMemoryError(OneProcessError):
    """The memory of the device or the machine is full."""


class NotFiniteError(ImageError):
    """A model's output for an image is not finite; ``path`` is the image."""

    def __init__(self, path: str, advice: str) -> None:
        super().__init__(path, advice)  # with which another process makes it again
        self.path, self.advice = path, advice

    def __str__(self) -> str:
        return f"The model's output for {self.path!r} is not finite: {self.advice}"


def is_full_memory(error: BaseException) -> bool:
    """Return whether Python or torch says that there is no memory left."""
    # torch's OutOfMemoryError is a RuntimeError.
    of_torch = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(of_torch)


def sentence(error: InputError) -> str:
    """Return the message in one line.

    torch puts a worker's traceback into the message of an error in a DataLoader's worker.
    """
    text = str(error)
    if text.startswith("Caught "):
        text = text.rpartition(f"{type(error).__module__}.{type(error).__name__}: ")[2]
    return " ".join(text.split())


def first_line(error: Exception) -> str:
    """Return the type of an error and the first line of its message, which may be empty."""
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def shown(name: str) -> str:
    """Return a name as it is printed: escaped if a console cannot show it, or it has line ends."""
    return name if name.isprintable() else ascii(name)


def listed(names: Sequence[str]) -> str:
    """Return the names with commas between them; of many the first ones, and how many more."""
    most = 20
    text = ", ".join(name.strip() for name in names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text or "none"


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean X?)"`` for the choice most like ``word``, "" if none is like it."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
