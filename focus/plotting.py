"""What the plots of several modules share: colours, and names of generators as labels."""

# Okabe and Ito's colours, which colour-blind people tell apart; without black, which is the mean.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#a8a000")
MARKERS = "osD^v<>PX"
DASHES = {"closed": "--", "closed_balanced": ":", "open": "-"}
"""Of a line in a plot of several test sets."""
INK = "#1a1a1a"
"""Of text and axes; a report turns it into the colour of its own text."""

_LONGEST = 16


def short_label(name: str) -> str:
    """A name as text of a plot: cut at 16 characters, whatever characters it is of.

    Matplotlib takes what stands between dollar signs for mathematics, and leaves what begins with
    an underscore out of a legend; bytes that are not UTF-8 cannot be drawn.
    """
    clean = printable(name)
    short = clean if len(clean) <= _LONGEST else clean[: _LONGEST - 3] + "..."
    return short.replace("$", r"\$").replace("_", "\u2009_", 1 if short.startswith("_") else 0)


def printable(text: str) -> str:
    """Question marks for bytes that were not UTF-8 in a file or in its name."""
    return text.encode("utf-8", "replace").decode("utf-8")
