"""Share colours, legends and short names among plots and tables."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tables do without matplotlib, which takes a while to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart; without black, which is the mean.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#a8a000")
MARKERS = "osD^v<>PX"
DASHES = {"closed": "--", "closed_balanced": ":", "open": "-"}
"""Line style of each test set where one plot shows several."""
INK = "#1a1a1a"
"""Colour of text and axes; a report replaces it by the colour of its own text."""


def shortened(names: Iterable[str], longest: int = 16) -> dict[str, str]:
    """Map each name to one line of at most ``longest`` characters, all different.

    A long name keeps its beginning and its end: ``stable_d...v_1_4``. If that leaves two alike, all
    are numbered. Characters that cannot be printed become question marks.
    """
    lines = {name: "".join(c if c.isprintable() else "?" for c in name) for name in names}
    short = {name: _ellipsis(line, longest) for name, line in lines.items()}
    if len(set(short.values())) == len(short):
        return short
    numbered = enumerate(lines.items(), start=1)
    return {name: _ellipsis(f"{number}: {line}", longest) for number, (name, line) in numbered}


def _ellipsis(line: str, longest: int) -> str:
    if len(line) <= longest:
        return line
    end = 2 * (longest - 3) // 5
    return f"{line[: longest - 3 - end]}...{line[-end:]}"


def legend_below(figure: "Figure", axes: "Axes", columns: int) -> None:
    """Draw the legend of ``axes`` below all panels and make the figure as much higher.

    columns: at most; fewer if the legend would be wider than the figure.
    """
    handles, labels = axes.get_legend_handles_labels()
    for number, handle in enumerate(handles):
        handle.set_gid(f"line-{number}")  # by which a page finds a line and its name
    for count in range(min(columns, len(handles)), 0, -1):
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=count, frameon=False
        )
        for number, text in enumerate(legend.get_texts()):
            text.set_parse_math(False)  # a name may hold dollar signs
            text.set_gid(f"key-{number}")
        extent = legend.get_window_extent()
        if extent.width <= figure.bbox.width or count == 1:
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)
            return
        legend.remove()
