"""The gate: what can be reached on spare draws at all, before any losses are compared.

Only these are looked at while the benchmark is made: cross-entropy, what is gained by the exact
place of each artefact, and an oracle that knows the unknown generators.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from focus.data.demo import ORACLE, demo_manifest
from focus.data.images import load_image
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.experiment.collect import GRADES, outcome
from focus.experiment.data import write_data
from focus.experiment.frozen import BASELINE, ORACLE_ARM, PERFECT, SPARE, WORLDS
from focus.experiment.grid import Setup, headroom_runs
from focus.experiment.report import HEADROOM
from focus.experiment.run import execute, is_finished
from focus.metrics.ranking import auc
from focus.runtime.files import atomic_csv_writer, atomic_write

ORACLE_AT_LEAST, CLOSED_AT_LEAST, GAIN_AT_LEAST = 0.90, 0.93, 0.08
FIGURES = ("closed", "closed_balanced", "open", *GRADES)
LOCAL = ("recombined", "near", "far")

Row = dict[str, float]


def headroom(setup: Setup, *, jobs: int, train: bool = True) -> list[str]:
    """Make the runs of the gate, and write ``headroom.csv`` and ``headroom.md``.

    Returns a sentence for each run that failed.
    """
    runs = headroom_runs(setup, SPARE)
    failures: dict[str, str] = {}
    if train:
        prepare = partial(write_data, images=_drawn)
        failures = execute(
            [run for run in runs if run.arm != ORACLE_ARM],
            jobs=jobs,
            logs=setup.output / "logs",
            prepare=prepare,
        )
        failures |= execute(
            [run for run in runs if run.arm == ORACLE_ARM],
            jobs=jobs,
            logs=setup.output / "logs",
            prepare=partial(write_data, images=with_oracle),
        )
    found = [(run.arm, run.unit, dict(outcome(run).figures)) for run in runs if is_finished(run)]
    for unit in SPARE:
        for known in (True, False):
            found.append((f"FFT, {'known' if known else 'unknown'}", unit, fft_row(unit, known)))
    with atomic_csv_writer(setup.output / HEADROOM, end="\n") as rows:
        rows.writerow(("row", "draw", *FIGURES))
        for name, unit, figures in found:
            rows.writerow((name, unit, *(f"{figures.get(each, np.nan):.4f}" for each in FIGURES)))
    text = verdict(found)
    with atomic_write(setup.output / "headroom.md") as aside:
        aside.write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten: {setup.output / 'headroom.md'}")
    return list(failures.values())


@lru_cache(maxsize=2)
def _drawn(unit: int, world: str) -> Manifest:
    return demo_manifest(draw=unit, agreement=int(world) / 100)


@lru_cache(maxsize=2)
def with_oracle(unit: int, world: str) -> Manifest:
    """Return a draw with 2,000 fakes of its unknown generators to train on."""
    return _drawn(unit, world) + demo_manifest(draw=unit, agreement=int(world) / 100, splits=ORACLE)


def verdict(found: Sequence[tuple[str, int, Mapping[str, float]]]) -> str:
    """Return the table of all rows, and whether each bar is reached, as Markdown."""
    lines = ["| row | draw | closed-balanced | open, local | recombined | near | far | global |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, unit, row in found:
        cells = (row["closed_balanced"], local(row), *(row[grade] for grade in GRADES))
        lines.append(f"| {name} | {unit} | {' | '.join(map(_number, cells))} |")
    rows = {
        arm: [row for name, _, row in found if name == arm]
        for arm in (BASELINE, PERFECT, ORACLE_ARM)
    }
    draws = {unit for _, unit, _ in found}
    if any(len(own) < len(draws) for own in rows.values()):
        lines += ["", "Runs are missing: the bars are not judged."]
    else:
        opened = {arm: np.mean([local(row) for row in own]) for arm, own in rows.items()}
        closed = min(row["closed_balanced"] for row in rows[BASELINE])
        bars = (
            ("oracle, open, mean", opened[ORACLE_ARM], ORACLE_AT_LEAST),
            ("ce, closed-balanced, lowest of all draws", closed, CLOSED_AT_LEAST),
            ("perfect focus - ce, open, mean", opened[PERFECT] - opened[BASELINE], GAIN_AT_LEAST),
        )
        lines += ["", "| bar | found | at least | |", "|---|---|---|---|"]
        for name, value, bar in bars:
            said = "reached" if value >= bar else "MISSED"
            lines.append(f"| {name} | {_number(float(value))} | {_number(bar)} | {said} |")
    return "\n".join(lines) + "\n"


def local(row: Mapping[str, float]) -> float:
    """Return the mean open AUC over the generators whose artefacts have a place."""
    return float(np.mean([row[grade] for grade in LOCAL]))


def fft_row(unit: int, known: bool) -> Row:
    """Return the figures of the spectrum's classifier, trained on known or unknown fakes."""
    manifest = with_oracle(unit, WORLDS[0])
    unseen = {s.generator for s in manifest if s.test_set == "open" and s.label == SYNTHETIC}
    kept = manifest.where(
        lambda s: s.split != "train" or s.label == REAL or (s.generator in unseen) != known
    )
    by_set = fft_baseline(kept)
    grades = {s.generator: s.extra["grade"] for s in manifest if s.label == SYNTHETIC}
    row = {name: float(np.mean(list(aucs.values()))) for name, aucs in by_set.items()}
    for grade in GRADES:
        own = [each for name, each in by_set["open"].items() if grades[name] == grade]
        row[grade] = float(np.mean(own))
    return row


def fft_baseline(manifest: Manifest) -> dict[str, dict[str, float]]:
    """Return the AUC of each generator of each test set by logistic regression on the spectrum.

    The simplest detector that looks at no place: the logarithm of the grey image's power at each
    frequency, fitted to the training images.
    """
    train = manifest.split("train")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))
    model.fit(_spectra(train), [sample.label for sample in train])
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(sample.test_set for sample in manifest if sample.test_set):
        tests = Manifest(sample for sample in manifest if sample.test_set == name)
        scores = model.decision_function(_spectra(tests))
        of = np.array([s.generator if s.label == SYNTHETIC else "" for s in tests])
        found[name] = {
            str(each): auc(scores[of == ""], scores[of == each]) or np.nan
            for each in dict.fromkeys(of)
            if each
        }
    return found


def _spectra(manifest: Manifest) -> NDArray[np.float64]:
    spectra = []
    for sample in manifest:
        grey = np.asarray(load_image(sample.path).convert("L"), np.float64)
        spectra.append(np.log1p(np.abs(np.fft.rfft2(grey - grey.mean()))).ravel())
    return np.stack(spectra)


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)
