"""Labels that are the other way round are said: a detector would learn the opposite."""

from pathlib import Path

import pytest

from focus.config.train import TrainConfig
from focus.data.readers import read_given

from ..reading import read_data
from ..trees import write

KAGGLE = """,id,label,label_str,path
0,31355,1,real,real/1.jpg
1,02884,1,real,real/2.jpg
2,33988,1,real,real/3.jpg
3,AAAA,0,fake,fake/4.jpg
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (KAGGLE, "3 of 3 images taken for synthetic are real by the name 'real'"),
        # By the folders alone.
        (KAGGLE.replace(",real,", ",a,").replace(",fake,", ",b,"), "3 of 3 images taken for synth"),
        (KAGGLE.replace("label,", "is_real,"), ""),
        (KAGGLE.replace(",1,", ",one,").replace(",0,", ",1,").replace(",one,", ",0,"), ""),
        (KAGGLE.replace(",real,real/", ",x,Real-ESRGAN/").replace("fake,fake", "x,x"), ""),
    ],
)
def test_numbers_that_the_words_beside_them_contradict(
    tmp_path: Path, text: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Kaggle's "140k real and fake faces": 1 is real."""
    paths = [line.rpartition(",")[2] for line in text.splitlines()[1:]]
    write(dict.fromkeys(paths, "face 1"), tmp_path)
    (tmp_path / "t.csv").write_text(text)
    read_data(tmp_path / "t.csv")
    assert len(caplog.messages) == bool(said)
    assert said in caplog.text
    if text == KAGGLE:
        caplog.clear()
        found = read_data(tmp_path / "t.csv", columns=("label=label_str",))
        assert [s.label for s in found] == [0, 0, 0, 1]
        assert caplog.messages == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("FFHQ-real/1 FFHQ-synthesis/2", "by the name 'FFHQ-real' beside them"),
        ("stylegan2_original/1 Real-ESRGAN/2 fake_of_real/3 realistic/4", ""),
    ],
)
def test_a_folder_of_fakes_that_holds_real_images(
    names: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write({f"{name}.png": "face 1" for name in names.split()}, tmp_path)
    read_given(TrainConfig(test_data={"X": str(tmp_path)}))
    assert len(caplog.messages) == bool(said)
    assert said in caplog.text
