"""Evenly spaced frames of video files, decoded by PyAV."""

import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from focus.data.images import check_pixels, pixel_limit
from focus.errors import ImageError, InputError
from focus.metrics.arrays import evenly

VIDEO_EXTENSIONS = frozenset(
    {
        ".3gp",
        ".avi",
        ".flv",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".webm",
        ".wmv",
    }
)
# FFmpeg's names. No playlists: it would open the files that they name.
_FORMATS = (
    "asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg"
)

_log = logging.getLogger(__name__)


class Frame(NamedTuple):
    """One frame of a video. number: from 0, in the order of time. image: 8-bit RGB, upright."""

    number: int
    seconds: float
    image: Image.Image


def import_av() -> Any:
    """Return the module PyAV; raise InputError if it is not installed."""
    try:
        return import_module("av")
    except ImportError as error:
        raise InputError("Videos need PyAV: pip install 'focus-faces[video]'.") from error


def frames_of(path: str | Path, wanted: int) -> Iterator[Frame]:
    """Yield at most ``wanted`` frames of a video file, evenly spaced over its whole length.

    Of a damaged file come the frames that can be decoded, and a warning says how many, or what the
    file announces and lacks. Raises ImageError if none can be, and InputError if PyAV is not
    installed.
    """
    av = import_av()
    n_read = 0
    try:
        with _opened(av, path) as container:
            count = _count_frames(av, container, path)
        numbers = set(evenly(count, wanted))
        with _opened(av, path) as container:
            for number, frame in enumerate(_decoded(av, container)):
                if number in numbers:
                    n_read += 1
                    # Phones store how they were held; in degrees against the clock, as Pillow.
                    image = frame.to_image().rotate(frame.rotation, expand=True)
                    yield Frame(number, frame.time or 0.0, image)
                    if number == max(numbers):
                        return
    except (av.error.FFmpegError, OSError, IndexError, ValueError) as error:
        raise ImageError(f"Cannot decode {str(path)!r} ({error}): fix or remove it.") from error
    if not n_read:
        raise ImageError(f"Cannot decode {str(path)!r} (not one frame): fix or remove it.")
    _log.warning("read %d of %d frames of the damaged video %r", n_read, len(numbers), str(path))


def _opened(av: Any, path: str | Path) -> Any:
    return av.open(str(path), container_options={"format_whitelist": _FORMATS})


def _count_frames(av: Any, container: Any, path: str | Path) -> int:
    """Return how many frames a file holds; warn if it announces more, or a longer video."""
    # An empty packet ends the file.
    packets = (packet for packet in container.demux(video=0) if packet.size)
    ends = [
        float((packet.pts or 0) + (packet.duration or 0)) * float(packet.time_base)
        for packet in packets
    ]
    n_announced = container.streams.video[0].frames
    seconds = (container.duration or 0) / av.time_base
    # Sound may last longer.
    is_short = seconds - max(ends, default=seconds) > max(1, seconds / 10)
    if len(ends) < n_announced or is_short:
        lacking = f"{n_announced} frames" if len(ends) < n_announced else f"{seconds:.1f} seconds"
        _log.warning("read %d frames of %r, which announces %s", len(ends), str(path), lacking)
    return len(ends)


def _decoded(av: Any, container: Any) -> Iterator[Any]:
    stream = container.streams.video[0]
    if stream.codec_context is None:  # FFmpeg has no decoder for it
        return
    stream.thread_type = "AUTO"
    check_pixels((stream.width, stream.height))
    stream.codec_context.options = {"max_pixels": str(pixel_limit())}  # where the file says fewer
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            continue  # damaged; what follows the next key frame may be sound
