"""Show a leaderboard: as text, as tables and as the page with its heat map."""

from collections.abc import Sequence
from pathlib import Path

from focus.errors import shown
from focus.evaluation.leaderboard import Leaderboard, Standing
from focus.evaluation.other_detectors import ScoreTable
from focus.evaluation.result_table import SET_TITLES
from focus.findings import Finding, finding
from focus.metrics.intervals import Interval
from focus.report import page, plots
from focus.tables import Cell, Table

_COLUMNS = ("rank", "mean AUC", "minus the first", "p (Holm)")


def as_text(boards: Sequence[Leaderboard]) -> str:
    """Return the leaderboards for a console."""
    return "\n\n".join(
        "\n".join([table.title, *table.lines()]) for table in map(_standings, boards)
    )


def findings(boards: Sequence[Leaderboard], table: ScoreTable) -> list[Finding]:
    """Return what was taken for granted of scores, and which rows and generators are left out."""
    notes = table.findings
    for board in boards:
        if board.left_out:
            names = shown(", ".join(board.left_out))
            test_set = SET_TITLES[board.test_set]
            notes.append(finding("generators_left_out", test_set=test_set, names=names))
    return notes


def write(boards: Sequence[Leaderboard], table: ScoreTable, folder: Path) -> Path:
    """Write the page of the leaderboards into ``folder``; return its path."""
    return page.render(
        folder,
        title=f"{len(table.detectors)} detectors of {table.path.name}",
        facts={"images": " / ".join(_counts(board) for board in boards)},
        results={},
        findings=findings(boards, table),
        tables=[_by_generator(board) for board in boards],
        standings=[_standings(board) for board in boards],
        sections={
            "By generator": [plot for board in boards for plot in plots.of_leaderboard(board)]
        },
    )


def _standings(board: Leaderboard) -> Table:
    rows = [(standing.detector, _cells(standing)) for standing in board.standings]
    return Table(_title(board), [*_COLUMNS], rows, _remarks(board))


def _by_generator(board: Leaderboard) -> Table:
    """Return the table of a row a generator, the hardest first, and a column a detector."""
    rows = []
    for number, generator in enumerate(board.generators):
        cells = [
            Cell(f"{standing.aucs[number]:.3f}", _ends(standing.intervals[number]))
            for standing in board.standings
        ]
        name = f"{generator.name} ({generator.real:,} + {generator.synthetic:,})"
        rows.append((name, cells))
    title = f"AUC by generator and detector, {SET_TITLES[board.test_set]}"
    notes = ["Beside a name: real + synthetic images. The hardest generators are the first."]
    return Table(title, [standing.detector for standing in board.standings], rows, notes)


def _cells(standing: Standing) -> list[Cell]:
    difference = standing.difference
    tested = [Cell("-"), Cell("-")]
    if difference is not None:
        ends = f"[{difference.low:+.3f}, {difference.high:+.3f}]"
        tested = [Cell(f"{difference.value:+.3f}", ends), Cell(f"{standing.p_holm:.2g}")]
    return [Cell(standing.rank), Cell(f"{standing.auc:.3f}", _ends(standing.interval)), *tested]


def _ends(interval: Interval) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _counts(board: Leaderboard) -> str:
    return f"{board.real:,} real + {board.synthetic:,} synthetic"


def _title(board: Leaderboard) -> str:
    generators = (
        "1 generator" if len(board.generators) == 1 else f"{len(board.generators)} generators"
    )
    return f"{SET_TITLES[board.test_set]}, mean AUC of {generators}, {_counts(board)} images"


def _remarks(board: Leaderboard) -> list[str]:
    pairs = "the one pair" if board.pairs == 1 else f"all {board.pairs} pairs"
    return [
        "Ranks as 2-4 are tied: all true ranks lie in these ranges with 95 % confidence, by "
        f"DeLong's tests of {pairs}, adjusted by Holm.",
        "Brackets are 95 % intervals of one figure or one paired difference, not adjusted.",
    ]
