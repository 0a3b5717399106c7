"""Frames of videos, evenly spaced: of files through PyAV, of folders by their names."""

from bisect import bisect_right
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from focus.data.images import reason, refuse_special
from focus.errors import ImageError, InputError

VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"}
    | {".webm", ".wmv"}
)


class Frame(NamedTuple):
    """One frame of a video. number: from 0, in the order of time. image: 8-bit RGB, upright."""

    number: int
    seconds: float
    image: Image.Image


def evenly(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` numbers from 0: the middles of parts of equal length."""
    wanted = min(wanted, count)
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def require_av() -> None:
    """Raise InputError if PyAV is not installed."""
    _av("A video")


def frames_of(path: str | Path, wanted: int) -> Iterator[Frame]:
    """Yields at most ``wanted`` frames of a video file, evenly spaced over its whole length.

    The file is read once for the times of its frames; then only what leads from a key frame to a
    wanted one is decoded.

    Raises:
        ImageError: no frame can be decoded. InputError: PyAV is not installed.
    """
    av = _av(str(path))
    empty = True
    try:
        refuse_special(path)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError("FFmpeg has no decoder for it")
            # An empty packet ends the file.
            packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size]
            given = [pts for pts, _ in packets if pts is not None]
            times = sorted(given)
            keys = sorted(pts for pts, is_key in packets if is_key and pts is not None)
            # AVI has no times, or those of decoding, which differ where frames are reordered.
            stamped = len(given) == len(packets) and bool(keys)
            stamped &= not (stream.codec_context.has_b_frames and given == times)
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            chosen = evenly(len(packets), wanted)
            found = (
                _at_times(av, container, keys, {times[n]: n for n in chosen})
                if stamped
                else _at_numbers(av, container, chosen)
            )
            for frame in found:
                empty = False
                yield frame
    except (av.error.FFmpegError, OSError, IndexError, ValueError) as error:
        what = "it has no pictures" if isinstance(error, IndexError) else reason(path, error)
        raise ImageError(f"Cannot decode {str(path)!r} ({what}): mend or remove it.") from error
    if empty:
        raise ImageError(f"Cannot decode {str(path)!r} (not one frame): mend or remove it.")


def _at_times(av: Any, container: Any, keys: list[int], wanted: dict[int, int]) -> Iterator[Frame]:
    """The frames that are shown at these times, or next where one is damaged.

    keys: times of the key frames. wanted: times, rising, and the frames' numbers.
    """
    stream = container.streams.video[0]
    frames = container.decode(stream)
    position = None  # time of the frame that was decoded last
    for time, number in wanted.items():
        if position is not None and position >= time:
            continue
        key = keys[max(0, bisect_right(keys, time) - 1)]
        if position is None or key > position:
            container.seek(key, stream=stream)
            frames = container.decode(stream)
        try:
            frame = next(f for f in frames if f.pts is not None and f.pts >= time)
        except (StopIteration, av.error.FFmpegError):
            frames, position = iter(()), None  # the rest up to the next key frame is damaged
            continue
        position = frame.pts
        yield _frame(frame, number)


def _at_numbers(av: Any, container: Any, wanted: list[int]) -> Iterator[Frame]:
    """The same of a file without times, which is decoded from the start."""
    numbers = set(wanted)
    try:
        for number, frame in enumerate(container.decode(container.streams.video[0])):
            if number in numbers:
                yield _frame(frame, number)
    except av.error.FFmpegError:
        return  # what comes before the damage is a video, too


def _frame(frame: Any, number: int) -> Frame:
    image = frame.to_image()
    if frame.rotation:
        # Phones store how they were held; in degrees against the clock, as Pillow turns.
        image = image.rotate(frame.rotation, expand=True)
    return Frame(number, frame.time or 0.0, image)


def _av(what: str) -> Any:
    try:
        return import_module("av")
    except ImportError as error:
        raise InputError(
            f"{what} cannot be read without PyAV: pip install 'focus-faces[video]'."
        ) from error
