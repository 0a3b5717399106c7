"""Human maps of several annotators and of other sizes keep what people marked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus.data.maps import files_of, human_map, is_blank, looks_inverted, resized
from focus.errors import ImageError


def grey(path: Path, values: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)
    return str(path)


def test_annotators_are_averaged(tmp_path: Path) -> None:
    grey(tmp_path / "a_1.png", [[255, 0], [0, 51]])
    grey(tmp_path / "b/a_2.png", [[0, 0], [102, 51]])
    grey(tmp_path / "a_3.png", np.kron([[102, 0], [0, 255]], np.ones((3, 3))))  # of another size
    reference = f"{tmp_path}/{{a_1.png,b/a_2.png,a_3.png}}"
    assert files_of(reference) == [f"{tmp_path}/{n}" for n in ("a_1.png", "b/a_2.png", "a_3.png")]
    values = human_map(reference)
    assert values.dtype == np.float32
    # (1 + 0 + 0.4) / 3, 0; 0.4 / 3, (0.2 + 0.2 + 1) / 3
    np.testing.assert_allclose(values, [[1.4 / 3, 0], [0.4 / 3, 1.4 / 3]], atol=1e-6)
    (tmp_path / "a_3.png").write_text("text")
    with pytest.raises(ImageError, match=r"^Cannot decode '.*a_3.png'"):
        human_map(reference)


def test_a_name_with_braces_that_is_there_is_one_file(tmp_path: Path) -> None:
    path = grey(tmp_path / "{a,b}.png", [[0, 255]])
    assert files_of(path) == [path]
    assert human_map(path).tolist() == [[0, 1]]


@pytest.mark.parametrize("shape", [(50, 30), (3, 90)])
def test_another_size_is_taken_by_area(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    fine = np.kron(values, np.ones((16, 16)))  # a multiple of both sizes
    expected = fine.reshape(16, shape[0], 16, shape[1]).mean((1, 3))
    np.testing.assert_allclose(resized(values, (16, 16)), expected, atol=1e-6)
    part = resized(values, (2, 2), (0, 1, 2, 3))
    np.testing.assert_array_equal(part, values[1:3, :2])


def test_blank_and_inverted_maps() -> None:
    y, x = np.mgrid[:32, :32]
    spot = np.exp(-((x - 20) ** 2 + (y - 9) ** 2) / 30).astype(np.float32)
    face = ((x - 16) ** 2 + (y - 16) ** 2 < 15**2).astype(np.float32)  # most of the image
    assert not is_blank(spot)
    assert is_blank(np.full((2, 2), 0.3, np.float32))
    assert [looks_inverted(m) for m in (spot, face, 1 - spot, 0.8 - 0.5 * face)] == [
        *(False, False, True),
        False,
    ]
