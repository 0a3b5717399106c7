"""The gate: what can be reached on spare draws at all, before any losses are compared.

Only these are looked at while the benchmark is made: cross-entropy, what is gained by the exact
place of each artefact, and an oracle that knows the unknown generators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from focus.data.demo import ORACLE, demo_manifest
from focus.data.images import load_image
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.experiment.collect import GRADES, outcome
from focus.experiment.data import Images, write_data
from focus.experiment.frozen import BASELINE, ORACLE_ARM, PERFECT, SPARE, WORLDS
from focus.experiment.grid import Run, Setup, headroom_runs
from focus.experiment.report import HEADROOM_FILE, number
from focus.experiment.run import execute, is_finished
from focus.metrics.ranking import auc
from focus.runtime.files import atomic_write, write_csv

ORACLE_AT_LEAST, CLOSED_AT_LEAST, GAIN_AT_LEAST = 0.90, 0.93, 0.08
FIGURES = ("closed", "closed_balanced", "open", *GRADES)
LOCAL = GRADES[:-1]
"""The grades whose artefacts have a place."""


@dataclass(frozen=True)
class Row:
    """A row of the gate: an arm, or the classifier of spectra, on a draw; epochs of its training.

    aucs: Mean AUC by test set and grade.
    """

    name: str
    world: str
    unit: int
    epochs: int | None
    aucs: Mapping[str, float]


def headroom(setup: Setup, images: Images, *, jobs: int, train: bool = True) -> list[str]:
    """Make the runs of the gate, and write ``headroom.csv`` and ``headroom.md``.

    Returns a sentence for each run that failed.
    """

    def prepare(run: Run) -> None:
        own = images(run.unit, run.world)
        if run.arm == ORACLE_ARM:
            own += _unknown(run.unit, run.world)
        write_data(run, lambda unit, world: own)

    runs = headroom_runs(setup, SPARE)
    failures: dict[str, str] = {}
    if train:
        failures = execute(runs, jobs=jobs, logs=setup.output / "logs", prepare=prepare)
    found = [
        Row(run.arm, run.world, run.unit, run.config.epochs, dict(outcome(run).figures))
        for run in runs
        if is_finished(run)
    ]
    for world in WORLDS:
        for unit in SPARE:
            drawn = images(unit, world)
            unfaked = drawn.where(lambda s: s.split != "train" or s.label == REAL)
            known, unknown = fft_row(drawn), fft_row(unfaked + _unknown(unit, world))
            found.append(Row("FFT, known", world, unit, None, known))
            found.append(Row("FFT, unknown", world, unit, None, unknown))
    rows = (
        (r.name, r.world, r.epochs, r.unit, *(f"{r.aucs.get(e, np.nan):.4f}" for e in FIGURES))
        for r in found
    )
    write_csv(setup.output / HEADROOM_FILE, ("row", "world", "epochs", "draw", *FIGURES), rows)
    text = "\n".join(verdict(found, world) for world in WORLDS)
    with atomic_write(setup.output / "headroom.md") as aside:
        aside.write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten: {setup.output / 'headroom.md'}")
    return list(failures.values())


def _unknown(unit: int, world: str) -> Manifest:
    """Return what an oracle is trained on: 2,000 fakes of the unknown generators, and reals."""
    return demo_manifest(draw=unit, agreement=int(world) / 100, splits=ORACLE)


def verdict(everything: Sequence[Row], world: str) -> str:
    """Return the table of the rows of a world, and whether each bar is reached, as Markdown."""
    found = [row for row in everything if row.world == world]
    lines = [f"Shortcut agrees with the label in {world} % of the training images.", ""]
    heads = "row", "epochs", "draw", "closed-balanced", "open, local", *GRADES
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in found:
        aucs = (row.aucs["closed_balanced"], local(row.aucs), *(row.aucs[g] for g in GRADES))
        cells = row.name, str(row.epochs or ""), str(row.unit), *map(number, aucs)
        lines.append(f"| {' | '.join(cells)} |")
    rows = {
        arm: [row.aucs for row in found if row.name == arm]
        for arm in (BASELINE, PERFECT, ORACLE_ARM)
    }
    draws = {row.unit for row in found}
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
            lines.append(f"| {name} | {number(float(value))} | {number(bar)} | {said} |")
    return "\n".join(lines) + "\n"


def local(row: Mapping[str, float]) -> float:
    """Return the mean open AUC over the generators whose artefacts have a place."""
    return float(np.mean([row[grade] for grade in LOCAL]))


def fft_row(manifest: Manifest) -> dict[str, float]:
    """Return the figures of the spectrum's classifier on a benchmark."""
    by_set = fft_baseline(manifest)
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
