"""How well scores tell fakes from real images, for a table of scores or batch by batch."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from focus.errors import InputError
from focus.metrics.bootstrap import units
from focus.metrics.figures import of_ranking
from focus.metrics.intervals import Compared, mean_auc_interval
from focus.metrics.ranking import Ranking


def detection_metrics(
    scores: Iterable[float],
    labels: Iterable[int],
    generators: Iterable[str] | None = None,
    groups: Iterable[str] | None = None,
    threshold: float = 0.5,
) -> dict[str, float]:
    """Return the figures of N scored images as one flat dictionary, NaN where not defined.

    They are those of ``results.json`` that scores alone have; ``auc_low`` and ``auc_high``,
    DeLong's 95 % interval; and with generators, for each, ``auc/NAME`` of its fakes against all
    real images, and ``auc_mean`` of these with ``auc_mean_low`` and ``auc_mean_high``.

    Args:
        scores: The probability of synthetic of each image, [N], in [0, 1].
        labels: 0 for a real image, 1 for a synthetic one, [N].
        generators: The programs that made the fakes, [N]; not read for real images.
        groups: What is not independent (a video, a person), [N]; "" is an image by itself.
        threshold: A score above it says synthetic.

    Raises InputError for other labels or scores, or columns of different lengths.

    Examples:
        >>> from focus.metrics import detection_metrics
        >>> figures = detection_metrics([0.1, 0.4, 0.3, 0.9], [0, 0, 1, 1], ["", "", "ADM", "SDXL"])
        >>> figures["auc"], figures["auc/ADM"], figures["auc/SDXL"]
        (0.75, 0.5, 1.0)
    """
    metrics = DetectionMetrics(threshold)
    metrics.update(scores, labels, generators, groups)
    return metrics.compute()


class DetectionMetrics:
    """Gather scores batch by batch and compute :func:`detection_metrics` of all, as torchmetrics.

    Each image counts once. Several processes gather their batches first, for example with
    Accelerate's ``gather_for_metrics``.

    Examples:
        >>> from focus.metrics import DetectionMetrics
        >>> metrics = DetectionMetrics()
        >>> metrics.update([0.1, 0.3], [0, 1])
        >>> metrics.update([0.4, 0.9], [0, 1])
        >>> metrics.compute()["auc"]
        0.75
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._rows: list[tuple[float, int, str, str]] = []

    def update(
        self,
        scores: Iterable[float],
        labels: Iterable[int],
        generators: Iterable[str] | None = None,
        groups: Iterable[str] | None = None,
    ) -> None:
        """Add the images of a batch: lists, arrays, or tensors of any device.

        Raises InputError, and adds none, as :func:`detection_metrics`.
        """
        score = _listed(scores)
        label = _listed(labels)
        generator = [""] * len(score) if generators is None else _listed(generators)
        group = [""] * len(score) if groups is None else _listed(groups)
        columns = (score, label, generator, group)
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(str(len(column)) for column in columns)
            raise InputError(
                f"scores, labels, generators and groups have {lengths} entries: give one an image."
            )
        for value in label:
            if value not in (0, 1):
                raise InputError(f"A label is {value!r}: give 0 for real and 1 for synthetic.")
        for value in score:
            if not 0 <= value <= 1:
                raise InputError(
                    f"A score is {value!r}: give the probability of synthetic, not a logit."
                )
        self._rows += zip(*columns, strict=True)

    def compute(self) -> dict[str, float]:
        """Return the figures of all images since the last reset."""
        scores, labels, generators, groups = (
            zip(*self._rows, strict=True) if self._rows else [()] * 4
        )
        score, fake = np.array(scores, dtype=np.float64), np.array(labels, dtype=np.int64) == 1
        unit = units(np.array(groups, dtype=np.object_))

        def compared(fakes: Any) -> Compared:
            return score[~fake], score[fakes], unit[~fake], unit[fakes]

        ranking = Ranking.of(score[~fake], score[fake])
        computed = of_ranking(ranking, self.threshold)
        figures = {name: float(values[0]) for name, values in computed.items()}
        figures |= _interval("auc", [compared(fake)])

        generator = np.array(generators, dtype=np.object_)
        names = sorted(set(generator[fake]) - {""})
        if not names:
            return figures
        comparisons = [compared(fake & (generator == name)) for name in names]
        aucs = [float(Ranking.of(real, fakes).auc()[0]) for real, fakes, *_ in comparisons]
        for name, auc in zip(names, aucs, strict=True):
            figures[f"auc/{name}"] = auc
        figures["auc_mean"] = float(np.mean(aucs))
        return figures | _interval("auc_mean", comparisons)


def _interval(name: str, comparisons: list[Compared]) -> dict[str, float]:
    low, high = mean_auc_interval(comparisons) or (np.nan, np.nan)
    return {f"{name}_low": low, f"{name}_high": high}


def _listed(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)
