"""Boxes of faces that are not what they should be."""

from pathlib import Path

import pytest
from PIL import Image

from focus.data.crop import cut_faces
from focus.data.faces import Box
from focus.data.manifest import Manifest, Sample


def test_boxes_with_width_and_height_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As COCO's, of which some could be corners."""
    for i in range(3):
        Image.new("RGB", (60, 40)).save(tmp_path / f"{i}.png")

    def warned(name: str, *boxes: Box) -> list[str]:
        caplog.clear()
        samples = [Sample(f"{tmp_path}/{i}.png", 0, box=box) for i, box in enumerate(boxes)]
        cut_faces(
            Manifest(samples, "the set"), tmp_path / name, source="box", margin=0, progress=False
        )
        return caplog.messages

    assert warned("coco", (12, 10, 40, 14), (40, 10, 12.5, 14), (12, 20, 20, 10)) == [
        "2 of 3 boxes of the set end before they begin, the first is 40 10 12.5 14 of "
        f"'{tmp_path}/1.png': a box is left top right bottom, so if these are left top width "
        "height, all faces are cut wrongly; add left to width and top to height"
    ]
    # Corners, and what some write for no face.
    assert warned("corners", (12, 10, 40, 14), (0, 0, 0, 0), (-1, -1, -1, -1)) == []
