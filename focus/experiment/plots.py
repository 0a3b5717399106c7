"""Draw the two pictures: open against closed AUC of all runs, and the dose-response."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from focus.experiment import frozen
from focus.experiment.collect import Outcome

SCATTER, DOSE = "open-against-closed.png", "dose-response.png"
_MARKERS = ("o", "^", "s", "D")  # of the lengths of training
_SETS = {"closed": "^", "open": "o"}
_GREY = "#777777"
_STYLE: Any = {
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.dpi": 160,
}


@matplotlib.rc_context(_STYLE)
def scatter(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw open against closed AUC, a point a run: colour the loss, marker the epochs.

    On the dashed line a model is as good on unknown generators as on known ones.
    """
    arms = [arm for arm in frozen.ARMS if any(o.run.arm == arm for o in outcomes)]
    epochs = {o.run.length: o.run.config.epochs for o in outcomes}
    markers = dict(zip(sorted(epochs), _MARKERS, strict=False))
    palette = matplotlib.colormaps["tab20"]
    colours = {arm: to_hex(palette(number)) for number, arm in enumerate(arms)}
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    for o in outcomes:
        colour, marker = colours.get(o.run.arm, _GREY), markers[o.run.length]
        at = o.figures["closed"], o.figures["open"]
        axes.plot(*at, marker, color=colour, ms=6, mec="white", mew=0.6)
    ends = axes.get_xlim()
    axes.plot(ends, ends, "--", color=_GREY, linewidth=0.8, scalex=False, scaley=False)
    axes.set_xlabel("closed-set AUC (known generators)")
    axes.set_ylabel("open-set AUC (mean of unknown generators)")
    handles = [_handle(colours[arm], "o", arm) for arm in arms]
    if any(o.run.arm not in arms for o in outcomes):
        handles.append(_handle(_GREY, "o", "other focus weights"))
    handles += [_handle("black", m, f"{epochs[length]} epochs") for length, m in markers.items()]
    figure.legend(handles=handles, loc="outside right upper")
    figure.savefig(path)


@matplotlib.rc_context(_STYLE)
def dose_response(by_dose: Mapping[float, Sequence[Outcome]], path: Path) -> None:
    """Draw open AUC, its distance from the closed one, and pointing, against the entropy h.

    A small point a run, a large one the mean of a focus weight, whose colour is the weight. The
    entropy is on a logarithmic scale, and its means are geometric: most weights bring it below a
    tenth.
    """
    palette = matplotlib.colormaps["viridis"]
    shades = np.linspace(0, 0.95, len(by_dose))
    colours = {weight: to_hex(palette(s)) for weight, s in zip(by_dose, shades, strict=True)}
    figure = Figure(figsize=(10.2, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    labels = "open-set AUC", "open - closed AUC", "CAM peaks in the artefact"
    _curve(panels[0], by_dose, colours, "open", "entropy_open")
    _curve(panels[1], by_dose, colours, "gap", "entropy_open")
    for kind, marker in _SETS.items():
        _curve(panels[2], by_dose, colours, f"pointing_{kind}", f"entropy_{kind}", marker)
    sets = [_handle("black", marker, kind) for kind, marker in _SETS.items()]
    panels[2].legend(handles=sets)
    for axes, label in zip(panels, labels, strict=True):
        axes.set_ylabel(label)
        axes.set_xlabel("CAM entropy h" + (", open set" if axes is not panels[2] else ""))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda h, _: f"{h:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.1, 0.1)
    weights = [_handle(colour, "o", f"{weight:g}") for weight, colour in colours.items()]
    figure.legend(handles=weights, title="focus weight", loc="outside right upper")
    figure.savefig(path)


def _curve(
    axes: Axes,
    by_dose: Mapping[float, Sequence[Outcome]],
    colours: Mapping[float, str],
    name: str,
    entropy: str,
    marker: str = "o",
) -> None:
    means = []
    for weight, outcomes in by_dose.items():
        # A collapsed CAM's may round to 0, which a logarithm has no place for.
        x = [max(outcome.figures[entropy], 1e-6) for outcome in outcomes]
        y = [outcome.figures[name] for outcome in outcomes]
        axes.plot(x, y, marker, color=colours[weight], ms=4, alpha=0.6, mew=0)
        means.append((float(np.exp(np.log(x).mean())), float(np.mean(y))))
    axes.plot(*np.array(means).T, "-", color=_GREY, linewidth=1.0, zorder=1)
    for weight, mean in zip(by_dose, means, strict=True):
        axes.plot(*mean, marker, color=colours[weight], ms=8, mec="black", mew=0.8)


def _handle(colour: str, marker: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, linestyle="", label=label)
