"""Frames of videos: which ones are taken, of which formats, upright, and from damaged files."""

from pathlib import Path

import numpy as np
import pytest

from focus.data import images
from focus.data.making.videos import frames_of
from focus.errors import ImageError
from focus.metrics.arrays import evenly

av = pytest.importorskip("av", reason="PyAV is not installed")

STEP = 4  # frame n of a test video is grey of level STEP * n
SIZE = (64, 48)


def write_video(path: Path, codec: str, options: dict[str, str] | None = None) -> Path:
    """Write 60 grey frames that tell their number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 12
        for number in range(60):
            pixels = np.full((*SIZE[::-1], 3), STEP * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(path: Path, wanted: int) -> tuple[list[int], list[int]]:
    """Return the numbers of the frames as they are given, and as their grey tells."""
    frames = list(frames_of(path, wanted))
    greys = [round(float(np.asarray(frame.image).mean()) / STEP) for frame in frames]
    return [frame.number for frame in frames], greys


def test_evenly_spaced_numbers() -> None:
    assert [evenly(10, 1), evenly(10, 5), evenly(0, 16)] == [[5], [1, 3, 5, 7, 9], []]
    for count, wanted in ((3, 16), (100, 7), (17, 16), (1000, 16)):
        frame_numbers = evenly(count, wanted)
        assert len(set(frame_numbers)) == min(count, wanted)
        # Neither end weighs more than the other, up to rounding.
        assert abs(frame_numbers[0] - (count - 1 - frame_numbers[-1])) <= 1


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("a.avi", "mpeg4", {}),
        ("a.webm", "libvpx", {}),
        ("a.mts", "libx264", {"bf": "2"}),
        ("a.mov", "libx264", {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}),
    ],
)
def test_the_frames_are_those_that_are_asked_for(
    name: str, codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = write_video(tmp_path / name, codec, options=options)
    for wanted in (1, 7, 100):
        frame_numbers, greys = numbers(path, wanted)
        assert frame_numbers == evenly(60, wanted)
        np.testing.assert_allclose(greys, frame_numbers, atol=1)  # codecs change the grey a little
    frames = frames_of(path, 3)
    assert [frame.seconds for frame in frames] == pytest.approx(
        np.array([10, 30, 50]) / 25, abs=1.5 if name == "a.mts" else 0.1
    )


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


def test_a_damaged_video_gives_what_it_has(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", "libx264")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    frames = list(frames_of(path, 8))
    greys = [float(np.asarray(frame.image).mean()) / STEP for frame in frames]
    assert 1 < len(frames) <= 8
    # Of reordered frames some in between are lost, too; each that is left has its own time.
    np.testing.assert_allclose(greys, [25 * frame.seconds for frame in frames], atol=1)


@pytest.mark.parametrize(("name", "says"), [("a.avi", "60 frames"), ("a.webm", "2.4 seconds")])
def test_frames_that_the_file_announces_and_lacks_are_said(
    name: str, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a verdict on the first half stands for the whole film."""
    path = write_video(tmp_path / name, "mpeg4" if name == "a.avi" else "libvpx")
    list(frames_of(path, 8))
    assert caplog.messages == []
    content = path.read_bytes()
    middle = len(content) // 2
    for damaged in (
        content[: len(content) * 6 // 10],
        content[:middle] + bytes(400) + content[middle + 400 :],
    ):
        path.write_bytes(damaged)
        list(frames_of(path, 8))
        assert f"which announces {says}" in caplog.messages[-1]


def test_a_video_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", "libx264")
    monkeypatch.setattr(images, "_most_pixels", 64 * 48 - 1)
    with pytest.raises(ImageError, match="64 x 48 pixels, more than --max-pixels 3071"):
        list(frames_of(path, 3))


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    write_video(tmp_path / "other.mp4", "mpeg4")
    # A list of other files, which FFmpeg would open.
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile 'other.mp4'\n")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    for name in ("empty.mp4", "list.mp4", "sound.mkv", "missing.mp4"):
        with pytest.raises(ImageError, match=rf"Cannot decode '.*{name}'.*: fix or remove it\.$"):
            list(frames_of(tmp_path / name, 3))
