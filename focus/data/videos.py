"""Frames of videos, evenly spaced: of files through PyAV, of folders by their names."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from focus.data.images import reason, refuse_special
from focus.errors import ImageError, InputError

VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"}
    | {".webm", ".wmv"}
)
# FFmpeg's names. No playlists: it would open the files that they name.
_FORMATS = (
    "asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg"
)


class Frame(NamedTuple):
    """One frame of a video. number: from 0, in the order of time. image: 8-bit RGB, upright."""

    number: int
    seconds: float
    image: Image.Image


class _Key(NamedTuple):
    """A key frame. place: of its packet among those of the video, in the order of the file."""

    time: int
    place: int


class _Wanted(NamedTuple):
    time: int
    number: int


def evenly(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` numbers from 0: the middles of parts of equal length."""
    wanted = min(wanted, count)
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def require_av() -> None:
    """Raise InputError if PyAV is not installed."""
    _av("A video")


def frames_of(path: str | Path, wanted: int) -> Iterator[Frame]:
    """Yields at most ``wanted`` frames of a video file, evenly spaced over its whole length.

    The file is read for the times of its frames, and again for them: only what leads from a key
    frame to a wanted one is decoded.

    Raises:
        ImageError: no frame can be decoded. InputError: PyAV is not installed.
    """
    av = _av(str(path))
    empty = True
    try:
        refuse_special(path)
        for frame in _found(av, str(path), wanted):
            empty = False
            yield frame
    except (av.error.FFmpegError, OSError, IndexError, ValueError) as error:
        what = "it has no pictures" if isinstance(error, IndexError) else reason(path, error)
        raise ImageError(f"Cannot decode {str(path)!r} ({what}): fix or remove it.") from error
    if empty:
        raise ImageError(f"Cannot decode {str(path)!r} (not one frame): fix or remove it.")


def _found(av: Any, path: str, wanted: int) -> Iterator[Frame]:
    with _opened(av, path) as container:
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("FFmpeg has no decoder for it")
        packets = [(p.pts, p.is_keyframe, p.size > 0) for p in container.demux(stream)]
        reordered = bool(stream.codec_context.has_b_frames)
    count = sum(full for *_, full in packets)  # an empty packet ends the file
    given = [pts for pts, _, full in packets if full and pts is not None]
    times = sorted(given)
    keys = [
        _Key(pts, place)
        for place, (pts, is_key, full) in enumerate(packets)
        if full and is_key and pts is not None
    ]
    chosen = evenly(count, wanted)
    if (
        # Times may be missing, or guessed by the demuxer, as in MPEG-PS: then some occur twice.
        len(set(given)) < count
        or not keys
        # AVI has no times, or those of decoding, which differ where frames are reordered.
        or (reordered and given == times)
        # In recordings that were joined byte by byte the times start again.
        or any(one.time >= other.time for one, other in pairwise(keys))
    ):
        yield from _at_numbers(av, path, chosen)
        return
    left = deque(_Wanted(times[number], number) for number in chosen)
    yield from _at_times(av, path, keys, left)
    if left:
        yield from _at_times(av, path, keys[:1], left)


def _opened(av: Any, path: str) -> Any:
    try:
        return av.open(path, container_options={"format_whitelist": _FORMATS})
    except av.error.ArgumentError as error:
        raise ValueError("it is in none of the usual video formats") from error


def _at_times(av: Any, path: str, keys: Sequence[_Key], wanted: deque[_Wanted]) -> Iterator[Frame]:
    """The frames that are shown at these times, or next where one is damaged.

    keys, wanted: in the order of time. The wanted ones are taken out as they are found or given
    up; some are left if a key frame on the way has no picture, as with intra refresh.
    """

    def key_of(frame: _Wanted) -> _Key:
        return keys[max(0, bisect_right(keys, frame.time, key=lambda key: key.time) - 1)]

    fresh = False  # whether no frame has come since the decoder was started at a key frame
    with _opened(av, path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        # Not container.seek: many formats seek by times of decoding, or land behind what is sought.
        for place, packet in enumerate(container.demux(stream)):
            if not wanted:
                return
            key = key_of(wanted[0])
            if place < key.place:
                continue
            if place == key.place:
                stream.codec_context.flush_buffers()
                fresh = True
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                # The rest up to the next key frame is damaged.
                while wanted and key_of(wanted[0]).place <= place:
                    wanted.popleft()
                continue
            for frame in frames:
                if frame.pts is None:
                    continue
                if fresh and frame.pts > key.time and key != keys[0]:
                    return
                fresh = False
                if wanted and frame.pts >= wanted[0].time:
                    number = wanted[0].number
                    while wanted and frame.pts >= wanted[0].time:
                        wanted.popleft()
                    yield _frame(frame, number)
    wanted.clear()


def _at_numbers(av: Any, path: str, wanted: list[int]) -> Iterator[Frame]:
    """The same of a file without times, which is decoded from the start."""
    numbers = set(wanted)
    with _opened(av, path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            for number, frame in enumerate(container.decode(stream)):
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
