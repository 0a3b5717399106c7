"""What plots and tables of several modules share: colours, legends, names cut short as labels."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tables do without matplotlib, which takes a while
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart; without black, which is the mean.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#a8a000")
MARKERS = "osD^v<>PX"
DASHES = {"closed": "--", "closed_balanced": ":", "open": "-"}
"""Of a line in a plot of several test sets."""
INK = "#1a1a1a"
"""Of text and axes; a report turns it into the colour of its own text."""

_LONGEST = 16  # characters of a name in a plot

_ROUNDS = 3


def short_labels(names: Iterable[str]) -> dict[str, str]:
    """Of each name a text of a plot: :func:`shortened`, whatever characters it is of.

    Matplotlib takes what stands between dollar signs for mathematics, leaves what begins with an
    underscore out of a legend, and draws boxes for characters that its font lacks, with a warning
    each: they are question marks here.
    """
    has = _characters()
    lines = {name: "".join(c if ord(c) in has else "?" for c in _one_line(name)) for name in names}
    return {
        name: short.replace("$", r"\$").replace("_", "\u2009_", 1 if short.startswith("_") else 0)
        for name, short in _told_apart(lines, _LONGEST).items()
    }


def legend_below(
    figure: "Figure", handles: Sequence["Artist"], labels: Sequence[str], columns: int
) -> None:
    """A legend below the panels, by whose height the figure grows.

    columns: at most; fewer where it would be wider than the figure, whose layout makes room for its
    height only.
    """
    for count in range(min(columns, len(handles)), 0, -1):
        legend = figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=count,
            fontsize=8,
            frameon=False,
        )
        extent = legend.get_window_extent()
        if extent.width <= figure.bbox.width or count == 1:
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)
            return
        legend.remove()


def _characters() -> set[int]:
    """The code points that the fonts of a plot have, the regular as well as the bold ones."""
    import matplotlib
    from matplotlib.font_manager import FontProperties, findfont, get_font

    found: list[set[int]] = []
    for weight in ("normal", "bold"):
        # Matplotlib takes a character from the first family that has it.
        families = matplotlib.rcParams["font.family"]
        fonts = [findfont(FontProperties(family=name, weight=weight)) for name in families]
        found.append({point for font in fonts for point in get_font(font).get_charmap()})
    return set.intersection(*found)


def shortened(names: Iterable[str], longest: int = _LONGEST) -> dict[str, str]:
    """Of each name a line of at most ``longest`` characters, no two alike.

    Names are cut at the end. Those that would be alike lose what they share instead: a part of
    their middle (``stable_d...v_1_4``), or their beginning where they go on for long. Where that
    does not tell them apart either, all names are numbered.
    """
    return _told_apart({name: _one_line(name) for name in names}, longest)


def _told_apart(lines: Mapping[str, str], longest: int) -> dict[str, str]:
    """:func:`shortened`, of the line that stands for each name."""
    short = {name: _cut(line, longest) for name, line in lines.items()}
    # Cut otherwise, a name may be like one that was alone until then.
    for _ in range(_ROUNDS):
        for alike in _alike(short):
            long = [name for name in alike if len(lines[name]) > longest]
            cut = _without_what_is_shared([lines[name] for name in long], longest)
            short |= zip(long, cut, strict=True)
    if _alike(short):
        numbered = enumerate(lines.items(), start=1)
        return {name: _cut(f"{number}: {line}", longest) for number, (name, line) in numbered}
    return short


def _alike(short: dict[str, str]) -> list[list[str]]:
    """The names that are alike cut short, together."""
    groups: dict[str, list[str]] = {}
    for name, line in short.items():
        groups.setdefault(line, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _without_what_is_shared(lines: Sequence[str], longest: int) -> list[str]:
    """Each line cut to ``longest``: what it ends with is kept, or what follows what all share."""
    room = longest - 3
    most = 5 * room // 8  # for the end, so that the beginning can be recognised
    words = [re.split("(?<=[-_/ ])", line) for line in lines]
    same = takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False))
    shared = sum(len(each[0]) for each in same)
    if any(len(line) - shared > most for line in lines):
        cut = [_cut(f"...{line[shared:]}", longest) for line in lines]
    else:
        cut = [_without_middle(line, longest, _whole_words(line, most)) for line in lines]
    if len(set(cut)) == len(lines):
        return cut
    return [_without_middle(line, longest, room // 2) for line in lines]


def _whole_words(line: str, most: int) -> int:
    """The length of the last words of a line, of as many as ``most`` characters hold."""
    ends = [found.end() for found in re.finditer("[-_/ ]", line)]
    return next((len(line) - end for end in ends if 0 < len(line) - end <= most), most)


def _without_middle(line: str, longest: int, end: int) -> str:
    return f"{line[: longest - 3 - end]}...{line[-end:]}"


def _cut(line: str, longest: int) -> str:
    return line if len(line) <= longest else line[: longest - 3] + "..."


def _one_line(text: str) -> str:
    """Question marks for what is not a character, which no font has, and for ends of lines."""
    return "".join(c if c.isprintable() else "?" for c in text)


def printable(text: str) -> str:
    """Question marks for bytes that were not UTF-8 in a file or in its name."""
    return text.encode("utf-8", "replace").decode("utf-8")
