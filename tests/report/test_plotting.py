"""Names cut short: no two alike, whole where they fit, and what tells them apart is kept."""

import itertools

import pytest

from focus.plotting import short_labels, shortened


@pytest.mark.parametrize(
    ("names", "longest", "expected"),
    [
        (["ADM", "a-generator-of-a-long-name"], 16, ["ADM", "a-generator-o..."]),
        (
            ["stable_diffusion_v_1_4", "ADM", "stable_diffusion_v_1_5"],
            16,
            ["stable_d...v_1_4", "ADM", "stable_d...v_1_5"],
        ),
        (
            ["stable_diffusion_v_1_4", "stable_diffusion_v_1_5"],
            12,
            ["stab...v_1_4", "stab...v_1_5"],
        ),
        (
            ["stable_diffusion_v_1_4", "stable_diffusion_v_1_5", "stable_diffusion_xl_base_1_0"],
            16,
            ["...v_1_4", "...v_1_5", "...xl_base_1_0"],
        ),
        (["gpt4oimagegenerationA", "gpt4oimagegenerationB"], 16, [None, None]),
        # Only the middle tells them apart, and it has no words.
        ([f"{'x' * 20}{c}{'y' * 20}" for c in "ab"], 16, ["1: xxxxxxxxxx...", "2: xxxxxxxxxx..."]),
        (["a\udcff", "a\udcfe"], 16, ["1: a?", "2: a?"]),
        (["two\nlines"], 16, ["two?lines"]),
        # One is as another is cut.
        (["abcdefghijklm...", "abcdefghijklmnopqrst"], 16, ["abcdefghijklm...", None]),
        ([], 16, []),
    ],
)
def test_shortened(names: list[str], longest: int, expected: list[str | None]) -> None:
    short = shortened(names, longest)
    assert list(short) == names
    assert len(set(short.values())) == len(names)
    assert all(len(line) <= longest for line in short.values())
    for line, wanted in zip(short.values(), expected, strict=True):
        assert wanted in (None, line)


@pytest.mark.parametrize("longest", [12, 16, 18, 20])
def test_no_two_of_many_names_are_alike(longest: int) -> None:
    parts = [("stable", "latent"), ("_diffusion_", "-diffusion-"), ("v_1_4", "v_1_5", "xl")]
    parts += [("", "_of_a_data_set", "-0001/ffhq")]
    names = ["".join(each) for each in itertools.product(*parts)]
    short = shortened(names, longest)
    assert len(set(short.values())) == len(names) == 36
    assert max(map(len, short.values())) <= longest


def test_labels_are_what_matplotlib_draws_as_it_stands() -> None:
    assert short_labels(["$x$", "_hidden", "a_b"]) == {
        "$x$": r"\$x\$",
        "_hidden": "\u2009_hidden",
        "a_b": "a_b",
    }


def test_characters_that_the_font_lacks_are_question_marks_and_the_names_differ() -> None:
    assert short_labels(["\u4eba", "\u8138", "\u0416"]) == {
        "\u4eba": "1: ?",
        "\u8138": "2: ?",
        "\u0416": "3: \u0416",
    }
    assert short_labels(["\u4eba\u8138", "\u00e9"]) == {"\u4eba\u8138": "??", "\u00e9": "\u00e9"}
    # Only the regular one of matplotlib's own fonts has it, and names are drawn in bold as well.
    assert short_labels(["\U0001d5a0"]) == {"\U0001d5a0": "?"}
    # Tables of the console are of the terminal's fonts.
    assert shortened(["\u4eba"]) == {"\u4eba": "\u4eba"}
