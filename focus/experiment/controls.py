"""Controls without a network: does a spectrum, or do raw pixels, tell photographs from fakes?

Each is a logistic regression on what it is named after. What it reaches, a network that looks at
faces has to be above.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample
from focus.evaluation.provenance import commit
from focus.experiment.collect import FIGURES, Outcome
from focus.experiment.grid import Run, Setup
from focus.metrics.arrays import Floats
from focus.metrics.ranking import auc

_PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""Values of scikit-learn's C, of which validation chooses."""
_PIXELS = 32  # a side


def radial_spectrum(path: str) -> Floats:
    """Return the logarithm of the power of a picture's grey values, a mean for each frequency."""
    grey = np.asarray(Image.open(path).convert("L"), dtype=np.float64) / 255
    power = np.abs(np.fft.fftshift(np.fft.fft2(grey - grey.mean()))) ** 2
    rows, columns = np.indices(power.shape)
    centre = np.array(power.shape) // 2
    radius = np.hypot(rows - centre[0], columns - centre[1]).astype(int)
    within = radius < min(power.shape) // 2
    sums = np.bincount(radius[within], power[within])
    return np.log(sums / np.bincount(radius[within]) + 1e-9)


def raw_pixels(path: str) -> Floats:
    """Return the grey values of a picture at 32 x 32 pixels."""
    small = Image.open(path).convert("L").resize((_PIXELS, _PIXELS), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64).ravel() / 255


CONTROLS: Mapping[str, Callable[[str], Floats]] = {
    "spectrum": lru_cache(maxsize=None)(radial_spectrum),
    "pixels": lru_cache(maxsize=None)(raw_pixels),
}
"""What a control sees of a picture, by its name as an arm."""


def control_runs(setup: Setup, units: Iterable[int]) -> list[Run]:
    """Return a row for each control and unit, beside the runs of the experiment."""
    return [
        Run(
            arm=name,
            world=world,
            unit=unit,
            images="own",
            settings=f"logistic regression of the {name}, C by validation",
            config=setup.base.changed(name=f"{name}-{world}-{unit:02d}"),
        )
        for unit in units
        for name in CONTROLS
        for world in setup.worlds
    ]


def control_outcome(run: Run, manifest: Manifest) -> Outcome:
    """Return the figures of a control on the images of a split.

    run: Its arm is in ``CONTROLS``.
    """
    represent = CONTROLS[run.arm]
    train, validation, test = (manifest.split(name) for name in ("train", "validation", "test"))
    known_generators = set(train.generators())

    def scores(fitted: Pipeline, samples: list[Sample]) -> Floats:
        values = np.stack([represent(sample.path) for sample in samples])
        margins: Floats = fitted.decision_function(values)
        return margins

    def area(fitted: Pipeline, images: Manifest, generators: set[str]) -> float:
        real = [sample for sample in images if sample.label == REAL]
        aucs = []
        for generator in sorted(generators):
            fakes = [s for s in images if s.label == SYNTHETIC and s.generator == generator]
            aucs.append(auc(scores(fitted, real), scores(fitted, fakes)) or math.nan)
        return float(np.mean(aucs))

    values = np.stack([represent(sample.path) for sample in train])
    labels = [sample.label for sample in train]
    fitted = []
    for penalty in _PENALTIES:
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000),
        )
        fitted.append(model.fit(values, labels))
    of_validation = [area(model, validation, known_generators) for model in fitted]
    best = int(np.argmax(of_validation))
    figures = dict.fromkeys(FIGURES, math.nan) | {
        "closed": area(fitted[best], test, known_generators),
        "open": area(fitted[best], test, set(test.generators()) - known_generators),
        "validation": of_validation[best],
    }
    return Outcome(run, figures, commit() or "")
