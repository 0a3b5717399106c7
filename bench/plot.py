"""Draw the pictures and fill the tables of docs/benchmarks.md and docs/scale.md.

    python -m bench.plot [--results FOLDER] [--docs FOLDER]

reads ``head.csv``, ``step.csv`` and ``loader.csv`` with the JSON beside each, and ``scale.csv``,
draws ``bench-step.png`` and ``scale.png``, and writes each table anew between ``<!-- NAME -->`` and
``<!-- end -->``.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.harness import Row, read_rows, run_program
from bench.head import RATIOS as HEAD_RATIOS
from bench.loader import SPEED
from bench.plan import Cluster, duration, inputs, stages
from bench.scale import PHASES, straightness
from bench.step import RATIOS as STEP_RATIOS

ROOT = Path(__file__).parents[1]
DOCUMENT, SCALE_DOCUMENT = "benchmarks.md", "scale.md"
SCALE_MARKS = ("costs", "photographs", "plan")


def head_table(rows: Sequence[Row]) -> list[str]:
    """Return the table of the head: two classes, a line a case, a column a ratio."""
    keys = "shape", "layout", "dtype"
    lines = []
    for case in _distinct([row for row in rows if row["classes"] == "2"], *keys):
        by_ratio = {
            row["ratio"]: row
            for row in rows
            if (*(row[key] for key in keys), row["classes"]) == (*case, "2")
        }
        memory = by_ratio["ours / plain"]["memory"]
        lines.append((" ".join(case), *(_cell(by_ratio, name) for name in HEAD_RATIOS), memory))
    return _markdown(("", *HEAD_RATIOS, "memory of ours / F"), lines)


def step_table(rows: Sequence[Row]) -> list[str]:
    """Return the table of the training step: a line per model and batch, a column a ratio."""
    lines = []
    for case in _distinct(rows, "model", "batch"):
        by_ratio = {r["ratio"]: r for r in rows if (r["model"], r["batch"]) == case}
        cells = [_cell(by_ratio, name) for name in STEP_RATIOS]
        lines.append((f"{case[0]}, batch {case[1]}", *cells))
    return _markdown(("", *STEP_RATIOS), lines)


def loader_table(rows: Sequence[Row]) -> list[str]:
    """Return the table of loaders: images a second, a line a loader, a column a kind of files."""
    cases = sorted(_distinct(rows, "augmentation", "files"), key=lambda case: case[0] == "with")
    speeds: dict[tuple[str, ...], str] = {
        (row["figure"], row["augmentation"], row["files"]): f"{float(row['median']):.0f}"
        for row in rows
        if row["figure"].startswith(SPEED)
    }
    lines = [
        (name.removeprefix(SPEED), *(speeds.get((name, *case), "") for case in cases))
        for name in dict.fromkeys(name for name, *_ in speeds)
    ]
    return _markdown(("", *(f"{files}, {augmentation}" for augmentation, files in cases)), lines)


TABLES = {"head": head_table, "step": step_table, "loader": loader_table}
"""By name of its results: the function that makes the lines of a table of its rows."""


def fill(document: str, folder: Path) -> str:
    """Return the document with its tables made from the results in a folder."""

    def filled(found: re.Match[str]) -> str:
        name, make = found[1], TABLES[found[1]]
        known = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["settings"]
        where = (
            f"(`{known['command']}`, {known['rounds']} rounds, commit {known['commit']}, torch "
            f"{known['torch']}, Python {known['python']}, {known['cpu']}, {known['cores']} virtual "
            f"cores, {known['threads']} thread, pinned: {known['pinned']}.)"
        )
        table = make(read_rows(folder / f"{name}.csv"))
        lines = [f"<!-- {name} -->", "", *table, "", where, "", found[2]]
        return "\n".join(lines)

    mark = rf"<!-- ({'|'.join(TABLES)}) -->\n.*?(<!-- end -->)"
    return re.sub(mark, filled, document, flags=re.DOTALL)


def fill_scale(document: str, folder: Path) -> str:
    """Return the page on scale with its tables made from ``scale.csv`` in a folder."""
    rows = read_rows(folder / "scale.csv")
    parts = dict(
        zip(SCALE_MARKS, (cost_lines(rows), photograph_lines(rows), plan_lines(rows)), strict=True)
    )

    def filled(mark: re.Match[str]) -> str:
        return "\n".join([f"<!-- {mark[1]} -->", "", *parts[mark[1]], "", mark[2]])

    pattern = rf"<!-- ({'|'.join(SCALE_MARKS)}) -->\n.*?(<!-- end -->)"
    return re.sub(pattern, filled, document, flags=re.DOTALL)


def cost_lines(rows: Sequence[Row]) -> list[str]:
    """Return the table of phases that grow: cost of an image by size, memory, and slopes."""
    growing = [row for row in rows if PHASES[row["phase"]].size is None]
    sizes = sorted({int(row["images"]) for row in growing})
    lines = []
    for phase, rows_by_size in _by_size(growing).items():
        costs = [
            f"{float(rows_by_size[size]['microseconds an image']):.1f}"
            if size in rows_by_size
            else ""
            for size in sizes
        ]
        largest = rows_by_size[max(rows_by_size)]
        ratio = straightness(
            sorted((size, float(row["CPU seconds"])) for size, row in rows_by_size.items())
        )
        peak = f"{int(largest['peak bytes an image']):,}"
        slopes = "" if ratio is None else f"{ratio:.2f}"
        total = f"{float(largest['CPU seconds']):,.0f}"
        lines.append((phase, *costs, total, peak, slopes))
    head = (f"µs an image, {size:,}" for size in sizes)
    last = "CPU s of the largest", "peak bytes an image", "last slope / first"
    return [*_markdown(("phase", *head, *last), lines), "", _measured_with(growing)]


def photograph_lines(rows: Sequence[Row]) -> list[str]:
    """Return the table of phases whose images have their usual sizes."""
    lines = [
        (row["phase"], row["images"], f"{float(row['microseconds an image']):,.0f}")
        for row in rows
        if PHASES[row["phase"]].size is not None
    ]
    return _markdown(("phase", "images", "µs an image"), lines)


def plan_lines(rows: Sequence[Row]) -> list[str]:
    """Return what goes into the plan, and its table for one node and for four."""
    clusters = [Cluster(), Cluster(nodes=4)]
    plans = [stages(cluster, rows) for cluster in clusters]
    lines = [
        (one.name, *(f"{duration(s.duration)}, {s.bottleneck}" for s in (one, four)), one.flag)
        for one, four in zip(*plans, strict=True)
    ]
    table = _markdown(("part", "one node", "four nodes", "what moves it"), lines)
    return [inputs(clusters[0]), "", *table]


def _by_size(rows: Iterable[Row]) -> dict[str, dict[int, Row]]:
    """Return the rows of each phase, in the order of the phases, by their number of images."""
    by_size: dict[str, dict[int, Row]] = {phase: {} for phase in PHASES}
    for row in rows:
        by_size[row["phase"]][int(row["images"])] = row
    return {phase: sizes for phase, sizes in by_size.items() if sizes}


def _measured_with(rows: Sequence[Row]) -> str:
    machines = ", ".join(sorted({row["machine"] for row in rows}))
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    loads = [float(row["load"]) for row in rows]
    return (
        f"(`python -m bench.scale`, commits {commits}; {machines}, which other programs used, too: "
        f"load {min(loads):.1f} to {max(loads):.1f}. One measurement each, CPU time.)"
    )


def scale_picture(rows: Sequence[Row]) -> Figure:
    """Draw the CPU seconds of each phase over the number of images, both logarithmic."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    growing = [row for row in rows if PHASES[row["phase"]].size is None]
    ends = []
    for phase, by_size in _by_size(growing).items():
        sizes = sorted(by_size)
        seconds = [float(by_size[size]["CPU seconds"]) for size in sizes]
        (line,) = axes.plot(sizes, seconds, "o-", ms=4, lw=1.4)
        ends.append((seconds[-1], sizes[-1], phase, line.get_color()))
    height = 0.0
    for seconds_at_end, size, phase, colour in sorted(ends):
        height = max(1.35 * height, seconds_at_end)  # names do not cover each other
        axes.annotate(f" {phase}", (size, height), color=colour, va="center", fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="images", ylabel="CPU seconds")
    ticks = sorted({int(row["images"]) for row in growing})
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.minorticks_off()
    axes.set_xlim(right=3 * max(size for _, size, _, _ in ends))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure


def step_picture(rows: Sequence[Row]) -> Figure:
    """Draw a panel a ratio: its interval by model and batch."""
    # The head's share of a step, far below 1, is left to the table.
    ratios = [name for (name,) in _distinct(rows, "ratio") if name != "head / step"]
    cases = _distinct(rows, "model", "batch")
    figure = Figure(figsize=(11, 1.1 + 0.45 * len(cases)), layout="constrained")
    panels = figure.subplots(1, len(ratios), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, ratios, strict=True):
        for row in rows:
            if row["ratio"] == name:
                place = cases.index((row["model"], row["batch"]))
                median, low, high = (float(row[key]) for key in ("median", "low", "high"))
                axes.plot([low, high], [place, place], color="#1b6ca8", lw=1.2)
                axes.plot(median, place, "o", color="#1b6ca8", ms=5)
        axes.set_title(name.replace(", one", ",\none"), fontsize=10)
        axes.axvline(1, color="#777777", lw=0.8, ls=":")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_yticks(range(len(cases)), [f"{model}, batch {batch}" for model, batch in cases])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=8)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    return figure


def _cell(by_ratio: Mapping[str, Row], name: str) -> str:
    row = by_ratio.get(name)
    return _figure(row, "median") if row and row["median"] else ""


def _figure(row: Row, name: str) -> str:
    """Return ``1.23 [1.20, 1.26]``."""
    digits = 4 if float(row[name]) < 0.01 else 2
    value, low, high = (f"{float(row[key]):.{digits}f}" for key in (name, "low", "high"))
    return f"{value} [{low}, {high}]"


def _distinct(rows: Iterable[Row], *keys: str) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(tuple(row[key] for key in keys) for row in rows))


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *lines]


def main() -> None:
    """Draw the pictures and fill the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the picture goes")
    given = parser.parse_args()
    document = given.docs / DOCUMENT
    text = fill(document.read_text(encoding="utf-8"), given.results)
    document.write_text(text, encoding="utf-8")
    scale_document = given.docs / SCALE_DOCUMENT
    scale_text = fill_scale(scale_document.read_text(encoding="utf-8"), given.results)
    scale_document.write_text(scale_text, encoding="utf-8")
    scale_rows = read_rows(given.results / "scale.csv")
    scale_picture(scale_rows).savefig(given.docs / "scale.png", dpi=150)
    step_rows = read_rows(given.results / "step.csv")
    step_picture(step_rows).savefig(given.docs / "bench-step.png", dpi=150)


if __name__ == "__main__":
    run_program(main)
