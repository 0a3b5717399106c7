"""Frames of videos: which ones are taken, of which formats, upright, and from damaged files."""

import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from focus.data.videos import evenly, frames_of
from focus.errors import ImageError, InputError
from focus.use.explain import find_items

from ..launching import outcome

av = pytest.importorskip("av", reason="PyAV is not installed")

STEP = 4  # frame n of a test video is grey of level STEP * n
SIZE = (64, 48)


def write_video(
    path: Path,
    codec: str,
    count: int = 60,
    gop: int = 12,
    options: dict[str, str] | None = None,
    rate: Fraction = Fraction(25),
) -> Path:
    """Write grey frames that tell their number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        for number in range(count):
            pixels = np.full((*SIZE[::-1], 3), STEP * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(path: Path, wanted: int) -> tuple[list[int], list[int]]:
    """The numbers of the frames as they are given, and as their grey tells."""
    found = list(frames_of(path, wanted))
    told = [round(float(np.asarray(frame.image).mean()) / STEP) for frame in found]
    return [frame.number for frame in found], told


def test_evenly_spaced_numbers() -> None:
    assert evenly(10, 1) == [5]
    assert evenly(10, 5) == [1, 3, 5, 7, 9]
    assert evenly(3, 16) == [0, 1, 2]
    assert evenly(0, 16) == []
    for count, wanted in ((100, 7), (17, 16), (1000, 16)):
        found = evenly(count, wanted)
        assert len(set(found)) == wanted
        # Neither end weighs more than the other, up to rounding.
        assert abs(found[0] - (count - 1 - found[-1])) <= 1


# H.264 reorders frames; in AVI it has no times of its own.
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("reordered.avi", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.webm", "libvpx"),
    ],
)
def test_the_frames_are_those_that_are_asked_for(name: str, codec: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, codec)
    given, told = numbers(path, 7)
    assert given == evenly(60, 7)
    np.testing.assert_allclose(told, given, atol=1)  # codecs change the grey a little
    given, told = numbers(path, 100)
    assert given == list(range(60))
    np.testing.assert_allclose(told, given, atol=1)


# A change of grey starts no group of its own, and the grey is exact.
OF_X264 = {"sc_threshold": "0"}
OF_FFMPEG = {"sc_threshold": "1000000000", "b": "4000000"}


@pytest.mark.slow
@pytest.mark.parametrize(("gop", "b_frames"), [(4, 2), (12, 0), (12, 2), (25, 3), (60, 2)])
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mts", "libx264"),
        (".mts", "mpeg2video"),
        (".mpg", "mpeg2video"),
        (".mpg", "libx264"),
        (".avi", "mpeg4"),
        (".avi", "libx264"),
        (".mp4", "libx264"),
        (".mp4", "mpeg4"),
        (".mkv", "libx264"),
        (".mkv", "mpeg2video"),
        (".mov", "libx264"),
        (".flv", "libx264"),
    ],
)
def test_reordered_frames_of_groups_of_any_length(
    suffix: str, codec: str, gop: int, b_frames: int, tmp_path: Path
) -> None:
    """Many formats seek by times of decoding, or land behind what is sought."""
    options = {"bf": str(b_frames)} | (OF_X264 if codec == "libx264" else OF_FFMPEG)
    path = write_video(tmp_path / f"a{suffix}", codec, gop=gop, options=options)
    for wanted in (1, 8, 60):
        given, told = numbers(path, wanted)
        assert given == evenly(60, wanted)
        assert told == given


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(13, 10)])
@pytest.mark.parametrize(("suffix", "codec"), [(".mts", "libx264"), (".mpg", "libx264")])
def test_recordings_one_after_another_whose_times_start_again(
    suffix: str, codec: str, rate: Fraction, tmp_path: Path
) -> None:
    first = write_video(tmp_path / f"a{suffix}", codec)
    # At a rate of 1.3 no frame has a time of the first one's.
    second = write_video(tmp_path / f"b{suffix}", codec, rate=rate)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    given, told = numbers(first, 8)
    assert given == evenly(120, 8)
    np.testing.assert_allclose(told, [number % 60 for number in given], atol=1)


def test_key_frames_from_which_nothing_can_be_decoded(tmp_path: Path) -> None:
    """With intra refresh a picture is whole only some frames after what is called a key."""
    options = {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}
    path = write_video(tmp_path / "a.mp4", "libx264", options=options)
    given, told = numbers(path, 8)
    assert given == evenly(60, 8)
    np.testing.assert_allclose(told, given, atol=1)


class Watched:
    """A container of PyAV that says which packets of a video are decoded."""

    def __init__(self, container: Any, decoded: list[int]) -> None:
        self.container, self.decoded = container, decoded

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.container, name)

    def demux(self, stream: Any) -> Iterator[Any]:
        for place, packet in enumerate(self.container.demux(stream)):

            def decode(place: int = place, packet: Any = packet) -> Any:
                self.decoded.append(place)
                return packet.decode()

            yield SimpleNamespace(
                pts=packet.pts, is_keyframe=packet.is_keyframe, size=packet.size, decode=decode
            )


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mts", "libx264"), (".mkv", "libx264"), (".avi", "mpeg4")]
)
def test_only_what_leads_from_a_key_to_a_wanted_frame_is_decoded(
    suffix: str, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OF_X264 if codec == "libx264" else OF_FFMPEG
    path = write_video(tmp_path / f"a{suffix}", codec, gop=5, options=options | {"bf": "2"})
    decoded: list[int] = []

    def watch(path: str, **given: Any) -> Watched:
        return Watched(av.open(path, **given), decoded)

    watched = SimpleNamespace(error=av.error, open=watch)
    monkeypatch.setattr("focus.data.videos._av", lambda _: watched)
    given, told = numbers(path, 2)
    assert told == given == [15, 45]
    assert len(set(decoded)) == len(decoded)
    assert 10 <= min(decoded) <= 15
    # At most 16 threads take a packet each before the first frame comes out.
    assert not set(decoded) & set(range(36, 40))


def test_the_time_is_that_of_the_frame(tmp_path: Path) -> None:
    found = list(frames_of(write_video(tmp_path / "a.mp4", "libx264"), 3))
    assert [frame.seconds for frame in found] == pytest.approx([10 / 25, 30 / 25, 50 / 25])


def test_a_video_of_a_phone_is_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = SIZE
        pixels = np.zeros((*SIZE[::-1], 3), np.uint8)
        pixels[:, :32] = 255  # white on the left
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    (lying,) = frames_of(path, 1)
    assert lying.image.size == SIZE
    # The matrix of the track's header, which says: a quarter turn with the clock.
    content = path.read_bytes()
    start = content.index(b"tkhd") + 4 + 40

    def fixed(*values: int) -> bytes:
        return b"".join(value.to_bytes(4, "big", signed=True) for value in values)

    one, unit = 1 << 16, 1 << 30
    assert content[start : start + 36] == fixed(one, 0, 0, 0, one, 0, 0, 0, unit)
    turned = fixed(0, one, 0, -one, 0, 0, 0, 0, unit)
    path.write_bytes(content[:start] + turned + content[start + 36 :])
    (upright,) = frames_of(path, 1)
    assert upright.image.size == SIZE[::-1]
    grey = np.asarray(upright.image.convert("L"), dtype=float)
    # What was on the left is on top.
    assert grey[:24].mean() > 200 > 50 > grey[-24:].mean()


def test_a_truncated_video_gives_what_it_has(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", "libx264", count=60)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = list(frames_of(path, 8))
    told = [float(np.asarray(frame.image).mean()) / STEP for frame in found]
    assert 1 < len(found) <= 8
    # Of reordered frames some in between are lost, too; each that is left has its own time.
    np.testing.assert_allclose(told, [25 * frame.seconds for frame in found], atol=1)


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    for name in ("text.mp4", "empty.mp4", "sound.mkv", "missing.mp4"):
        with pytest.raises(ImageError, match=f"Cannot decode '.*{name}'") as caught:
            list(frames_of(tmp_path / name, 3))
        assert str(caught.value).endswith(": fix or remove it.")


def test_a_codec_without_a_decoder(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", "mpeg4")
    content = path.read_bytes()
    assert b"V_MPEG4/ISO/ASP" in content
    path.write_bytes(content.replace(b"V_MPEG4/ISO/ASP", b"V_UNKNOWN/CODEC"))
    with pytest.raises(ImageError, match=r"a\.mkv' \(FFmpeg has no decoder for it\): fix"):
        list(frames_of(path, 3))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    said = outcome(lambda: list(frames_of(tmp_path / "a.mp4", 3)), ImageError)
    assert "neither a file nor a folder" in said


def test_a_list_of_other_files_is_no_video(tmp_path: Path) -> None:
    write_video(tmp_path / "other.mp4", "mpeg4")
    path = tmp_path / "a.mp4"
    path.write_text("ffconcat version 1.0\nfile 'other.mp4'\n")
    with pytest.raises(ImageError, match=r"a\.mp4' .*none of the usual video formats\): fix"):
        list(frames_of(path, 3))


def test_without_av_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # as Python marks what cannot be imported
    with pytest.raises(InputError, match=r"PyAV: pip install 'focus-faces\[video\]'"):
        list(frames_of(tmp_path / "a.mp4", 3))


def test_pictures_need_no_av(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "1.png").touch()
    for as_video, kind in ((False, "image"), (True, "video")):
        (item,) = find_items([str(tmp_path)], as_video=as_video, frames=1)
        assert item.kind == kind
    (tmp_path / "film.mp4").touch()
    with pytest.raises(InputError, match="PyAV: pip install"):
        find_items([str(tmp_path)], as_video=False, frames=1)
