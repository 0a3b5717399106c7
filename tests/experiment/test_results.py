"""README and docs/experiment.md say of the experiment what ``bench/results`` says.

Numbers are written as the experiment's own report writes them.
"""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from focus.experiment import frozen, report, search
from focus.experiment.statistics import (
    Compared,
    Floats,
    Interval,
    common_slope,
    holm,
    student_p,
    t_interval,
)

CHECKOUT = Path(__file__).parents[2]
RESULTS = CHECKOUT / "bench" / "results"
ARMS, EPOCHS, SEEDS = tuple(frozen.ARMS), (20, 40), range(frozen.SEEDS)

Row = Mapping[str, str]


def read(name: str) -> list[Row]:
    with (RESULTS / f"experiment-{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


DIGITS = {"rel": 1e-5, "abs": 5e-6}
"""What six digits of a run's figure leave open in a bound of Student's interval."""

RUNS, TABLE, COMPARISONS = (read(name) for name in ("runs", "table", "comparisons"))


def number(row: Row, name: str) -> float:
    return float(row[name]) if row[name] else math.nan


def all_runs(name: str) -> Floats:
    """A figure of the runs that have an arm, [A, L, S]."""
    places = {(r["loss"], int(r["epochs"]), int(r["seed"])): number(r, name) for r in RUNS}
    return np.array([[[places[a, e, s] for s in SEEDS] for e in EPOCHS] for a in ARMS])


def over_seeds(name: str, arm: str, epochs: int) -> Interval:
    (row,) = (r for r in TABLE if (r["loss"], r["figure"], r["epochs"]) == (arm, name, str(epochs)))
    figures = (number(row, column) for column in ("mean", "sd", "t_low", "t_high"))
    return Interval(*figures, int(row["n_seeds"]))


def mean(name: str, arm: str, epochs: int = 20) -> float:
    return over_seeds(name, arm, epochs).mean


def of_dose(name: str, weight: float) -> Floats:
    """A figure of the runs of a focus weight, [S]."""
    found = [number(row, name) for row in RUNS if row["focus_weight"] == str(float(weight))]
    assert len(found) == len(SEEDS)
    return np.array(found)


def slope_within(epochs: tuple[int, ...]) -> float:
    """Of open on closed AUC within the runs of a loss that have one length, of these lengths."""
    chosen = [EPOCHS.index(each) for each in epochs]
    closed, opened = (
        all_runs(name)[:, chosen].reshape(-1, 1, len(SEEDS)) for name in ("closed", "open")
    )
    return float(common_slope(closed, opened, np.ones(len(SEEDS))))


def two(value: float) -> str:
    """``.95``: two digits, as where the figures of a table need no third."""
    return f"{value:.2f}".removeprefix("0")


def up(value: float) -> str:
    """``.003``: what is no less than the value, in three digits."""
    return report.number(math.ceil(1e3 * value) / 1e3)


def section(document: str, title: str) -> str:
    """What stands under a title of a document, its minus signs as on a keyboard."""
    text = (CHECKOUT / document).read_text(encoding="utf-8")
    text = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert text, f"{document} has no {title!r}"
    return text.replace("\N{MINUS SIGN}", "-")


def sentences(document: str, title: str) -> str:
    """The same with a space for each line break."""
    return " ".join(section(document, title).split())


# The files among themselves. Only what the bootstrap gives needs more than runs.csv: their scores.


def test_the_runs_are_those_of_the_grid() -> None:
    found = [(row["loss"], int(row["epochs"]), int(row["seed"])) for row in RUNS]
    extra = [row for row in found if row[0] == "dose"]
    grid = [(arm, epochs, seed) for seed in SEEDS for epochs in EPOCHS for arm in ARMS]
    assert sorted(found) == sorted(grid + extra)
    # Of the weights two are those of cross-entropy and of focus.
    assert len(extra) == len(SEEDS) * (len(frozen.DOSES) - 2)
    for weight in frozen.DOSES:
        rows = [row for row in RUNS if row["focus_weight"] == str(float(weight))]
        assert {int(row["seed"]) for row in rows} == set(SEEDS)
        arm = {0.0: "ce", 0.1: "focus"}.get(weight, "dose")
        assert {(row["loss"], row["epochs"]) for row in rows} == {(arm, "20")}


def test_the_table_is_that_of_the_runs() -> None:
    figures = list(RUNS[0])[list(RUNS[0]).index("closed") :]
    assert [(row["loss"], int(row["epochs"]), row["figure"]) for row in TABLE] == [
        (arm, epochs, name) for epochs in EPOCHS for arm in ARMS for name in figures
    ]
    for row in TABLE:
        place = ARMS.index(row["loss"]), EPOCHS.index(int(row["epochs"]))
        of_runs = t_interval(all_runs(row["figure"])[place])
        found = [number(row, name) for name in ("mean", "sd", "t_low", "t_high", "n_seeds")]
        assert found == pytest.approx(astuple(of_runs), **DIGITS), row


def test_the_comparisons_are_those_of_the_runs() -> None:
    closed, opened = all_runs("closed"), all_runs("open")
    slope = float(common_slope(closed, opened, np.ones(len(SEEDS))))
    for row in COMPARISONS:
        arm, other, length = ARMS.index(row["loss"]), ARMS.index(row["other"]), int(row["length"])
        in_open, in_closed = (
            t_interval(auc[arm, length - 1] - auc[other, length - 1]) for auc in (opened, closed)
        )
        matched = in_open.mean - slope * in_closed.mean
        names = ("difference", "closed_difference", "slope")
        found = [number(row, name) for name in (*names, "matched_difference")]
        expected = [in_open.mean, in_closed.mean, slope, matched]
        assert found == pytest.approx(expected, **DIGITS), row
        assert number(row, "matched_low") < matched < number(row, "matched_high")
        each = (opened - slope * closed)[:, length - 1]
        at_matched = t_interval(each[arm] - each[other])
        for prefix, over_seeds in (("", in_open), ("matched_", at_matched)):
            found = [number(row, f"{prefix}{name}") for name in ("t_low", "t_high")]
            assert found == pytest.approx((over_seeds.low, over_seeds.high), **DIGITS), row
            assert number(row, f"{prefix}p") >= student_p(over_seeds) - 1e-3
        primary = (row["loss"], row["other"], length) == (*frozen.PRIMARY, 1)
        assert row["primary"] == str(int(primary))
    others = [row for row in COMPARISONS if row["primary"] == "0"]
    assert len(others) == len(COMPARISONS) - 1
    adjusted = holm([number(row, "matched_p") for row in others])
    assert [number(row, "p_holm") for row in others] == pytest.approx(adjusted)


# The documents.


def line(arm: str) -> str:
    """Of README's table."""

    def against_ce(length: int) -> str:
        for row in COMPARISONS:
            if (row["loss"], row["other"], row["length"]) == (arm, frozen.BASELINE, str(length)):
                names = ("difference", "low", "high", "p")
                figures = (number(row, f"matched_{name}") for name in names)
                text = report.span(Compared(*figures, t_interval([])))
                return f"**{text}**" if row["primary"] == "1" else text
        return ""

    pointing = " / ".join(two(mean(f"pointing_{kind}", arm)) for kind in ("closed", "open"))
    cells = (
        f"`{arm}`",
        report.number(mean("closed", arm)),
        report.number(mean("closed_balanced", arm)),
        report.cell(over_seeds("open", arm, 20), interval=False),
        against_ce(1),
        report.number(mean("closed", arm, 40)),
        report.cell(over_seeds("open", arm, 40), interval=False),
        against_ce(2),
        two(mean("entropy_open", arm)),
        pointing,
    )
    return f"| {' | '.join(cells)} |"


def test_the_table_of_the_readme() -> None:
    lines = section("README.md", "The experiment").splitlines()
    assert [each for each in lines if each.startswith("| `")] == [line(arm) for arm in ARMS]


def test_the_sentences_of_the_readme() -> None:
    text = sentences("README.md", "The experiment")
    against_ce = [row for row in COMPARISONS if row["other"] == frozen.BASELINE]
    moved = max(abs(number(r, "matched_difference") - number(r, "difference")) for r in against_ce)
    primary = next(row for row in COMPARISONS if row["primary"] == "1")
    half = (number(primary, "matched_high") - number(primary, "matched_low")) / 2
    assert f"at most {up(moved)} from the raw difference" in text
    student = " to ".join(report.signed(number(primary, f"matched_t_{e}")) for e in ("low", "high"))
    assert f"Student's interval over the three seeds is {student})" in text
    assert f"intervals of about ± {two(half)}," in text
    # No difference is shown.
    assert all(number(r, "matched_low") < 0 < number(r, "matched_high") for r in COMPARISONS)
    assert {row["p_holm"] for row in COMPARISONS} == {"", "1"}
    assert "Holm's p is 1 for each" in text

    entropy = [two(float(of_dose("entropy_open", weight).mean())) for weight in (0, 0.01, 0.3)]
    assert (
        f"weights of 0.01 to 0.3 bring the entropy from {entropy[0]} down to {entropy[1]} and "
        f"{entropy[2]}, and"
    ) in text
    assert f"the closed-set AUC falls to {two(float(of_dose('closed', 1).mean()))}, and" in text
    assert sum(of_dose("peak_share_open", 1) == 1) == 1
    assert "in one of three runs the CAM is one cell" in text

    with_maps = ("saliency", "cyborg", "blend")
    known = [mean("pointing_closed", arm) for arm in with_maps]
    assert f"artefacts of known generators ({two(float(np.mean(known)))})" in text
    doses = [of_dose("pointing_open", weight) for weight in (0.01, 0.03, 0.1, 0.3)]
    narrow = [mean("pointing_open", "hinge"), *(float(dose.mean()) for dose in doses)]
    with_maps_open = [mean("pointing_open", arm) for arm in with_maps]
    assert float(np.mean(with_maps_open)) == pytest.approx(float(np.mean(narrow)), abs=0.02)
    spread = max(float(dose.std(ddof=1)) for dose in doses)
    without, contrast = (two(mean("pointing_open", arm)) for arm in ("ce", "focus-contrast"))
    assert (
        f"({two(min(narrow))} to {two(max(narrow))}, SD up to {two(spread)}; cross-entropy "
        f"{without}); a weight of 1 ({two(float(of_dose('pointing_open', 1).mean()))}) and the "
        f"contrast CAM ({contrast}) do not."
    ) in text

    shorter = {n: float(all_runs(n)[:, 0].mean()) for n in ("closed", "closed_balanced", "open")}
    balanced, unknown_too = (two(shorter["closed"] - shorter[n]) for n in list(shorter)[1:])
    longest = {n: float(all_runs(n)[:, 1].mean()) for n in shorter}
    balanced_40, open_40 = (two(longest["closed"] - longest[n]) for n in list(shorter)[1:])
    assert (
        f"closed-balanced AUC lie {balanced} apart, closed and open {unknown_too} (after 40: "
        f"{balanced_40} and {open_40}):"
    ) in text
    longer = {n: all_runs(n).mean(2)[:, 1] - all_runs(n).mean(2)[:, 0] for n in ("closed", "open")}
    assert (sum(longer["closed"] > 0), sum(longer["open"] < 0)) == (11, 10)
    assert "raise the closed-set AUC of each loss, and lower the open one of ten of the" in text
    assert f"({len(RUNS)} runs, " in text


def test_what_the_document_says_of_the_slope() -> None:
    text = sentences("docs/experiment.md", "What came out")
    fixed = number(COMPARISONS[0], "slope")
    within, shorter, longer = (slope_within(epochs) for epochs in (EPOCHS, (20,), (40,)))
    assert f"**β came out at -{two(-fixed)}**" in text
    assert (
        f"the slope is +{two(within)} (+{two(shorter)} in those of 20 epochs, +{two(longer)} in "
        "those of 40; computed"
    ) in text

    plain, matched, other = (
        np.array(
            [number(r, "difference") - beta * number(r, "closed_difference") for r in COMPARISONS]
        )
        for beta in (0.0, fixed, within)
    )
    assert f"within {up(abs(matched - plain).max())} of the plain ones" in text
    assert f"within {up(abs(matched - other).max())} of those with +{two(within)};" in text
    found = {report.signed(each[0]) for each in (plain, matched, other)}
    assert COMPARISONS[0]["primary"] == "1"
    assert [f"the primary one is {each} by all three." in text for each in found] == [True]


def test_what_the_document_says_of_the_search() -> None:
    """Its lines are the candidates of the search; the best mean of each loss was frozen."""
    text = section("docs/experiment.md", "Order of work")
    found, marked = [], {}
    for row in re.findall(
        r"^\| `(.*?)` \| (.*?) \| (.*?) ± (.*?) \| (.*?) \| (.*?) ?\|$", text, re.M
    ):
        arm, settings, *figures, mark = row
        average, sd, lowest = map(float, figures)
        # Of two seeds, so that mean and lowest say both.
        aucs = lowest, 2 * average - lowest
        assert t_interval(aucs).sd == pytest.approx(sd, abs=2e-4), row
        place = sum(each.arm == arm for each in found)
        found.append(search.Candidate(arm, frozen.SEARCH[arm][place], aucs))
        assert search.settings_text(found[-1].settings) == settings
        if mark == "chosen":
            marked[arm] = found[-1]
    assert len(found) == sum(map(len, frozen.SEARCH.values()))
    n_runs = len(found) * len(frozen.SEARCH_SEEDS)
    assert f"`python -m focus.experiment --search`, {n_runs} runs of 20 epochs" in text
    assert marked == search.choose(found)
    assert {arm: each.settings for arm, each in marked.items()} == {
        **frozen.WEIGHTS,
        frozen.BASELINE: frozen.RECIPE,
    }
    lowest_of_ce = min(marked[frozen.BASELINE].aucs)
    assert f"reaches .93 on each seed (lowest {report.number(lowest_of_ce)})" in text
