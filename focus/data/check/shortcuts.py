"""Predict the label without looking at the face: a detector may learn that instead.

Gradient-boosted trees predict the label from a table of properties, in cross-validation that never
divides a group. The AUC is the mean of the folds'; its interval is that of Student's t, with the
variance of Nadeau and Bengio (*Inference for the Generalization Error*, 2003), since the folds'
models share most of their images.

How files are stored is such a table, and the one that matters most: training and evaluation audit
it too, of some hundred images, without decoding one.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from threadpoolctl import threadpool_limits

from focus.data.check.properties import Look, look
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest
from focus.findings import Finding, finding
from focus.metrics.bootstrap import units
from focus.metrics.intervals import LEVEL, mean_auc_interval
from focus.metrics.ranking import auc as auc_of

MIN_IMAGES = 20
"""Images of each class; fewer say nothing."""
WARN_FROM = 0.55
"""AUC, the lower end of its interval, above which there is a warning."""
SEVERE_FROM = 0.75
"""AUC of the files' metadata, the lower end of its interval, from which on it is an error."""
FOLDS = 5

_MAX_CAUSES = 5
# What a property must add to the AUC, or have alone above a half, to be named.
_WORTH_NAMING = 0.02

_Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]

OF_TRAINING = (
    "a detector can learn that instead of the face; store both classes in the same way, and see by "
    "focus evaluate --run runs/NAME --equalise, what its AUC owes to it"
)
"""What follows where images to train with are stored apart."""
OF_TEST = (
    "its AUC may be that of the files; focus evaluate --run runs/NAME --equalise shows what it is "
    "where both classes are stored in the same way"
)
"""What follows for a test set."""
CAUSES = 2
"""How many properties are named, those that explain most first."""
_LOOKED_AT = 500  # images of each class
# Where quality is part of the header, or pixels are kept as they are, equal headers leave only the
# pictures to explain the size of files.
_TELL_QUALITY = ("JPEG", "MPO", "PNG", "BMP", "DIB", "PPM", "GIF", "TGA")


@dataclass(frozen=True, slots=True)
class Cause:
    """A property that gives the label away.

    importance: The AUC that is lost when its values are shuffled among the held-out images; 0 where
    another property says the same. auc_alone: The AUC of a small tree of it alone. real,
    synthetic: The commonest value of the class with its share, or the median, with the share of
    images that have a value if some have none.
    """

    name: str
    importance: float
    auc_alone: float
    real: str
    synthetic: str

    def __str__(self) -> str:
        """``file format (real: JPEG 100 %, synthetic: PNG 100 %)``."""
        real, synthetic = LABEL_NAMES[REAL], LABEL_NAMES[SYNTHETIC]
        return f"{self.name} ({real}: {self.real}, {synthetic}: {self.synthetic})"


@dataclass(frozen=True, slots=True)
class Audit:
    """AUC of the label from one table, with its interval, and the causes, strongest first."""

    auc: float
    interval: tuple[float, float]
    level: float
    n_real: int
    n_synthetic: int
    causes: list[Cause]


def audit(
    rows: Sequence[Mapping[str, float | str]],
    labels: Sequence[int],
    groups: Sequence[str] = (),
    *,
    seed: int = 0,
) -> Audit | None:
    """Return how well properties predict the labels; None with too few images or groups of a class.

    Args:
        rows: The properties of each image by name: numbers (NaN: not there) or texts.
        labels: The label of each image, 0 real, 1 synthetic.
        groups: The group of each image, which no fold divides; "" is an image by itself.
        seed: The seed of the folds and the trees.
    """
    # It takes a second to import, and tables of scores have no files to tell apart.
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import cross_validate

    target = np.array(labels, dtype=np.int64)
    n_real, n_synthetic = int((target == REAL).sum()), int((target == SYNTHETIC).sum())
    if min(n_real, n_synthetic) < MIN_IMAGES:
        return None
    folds = _folds(target, groups, seed)
    if not folds:
        return None

    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    columns = {name: _encoded(cells) for name, cells in table.items()}
    columns = {name: values for name, values in columns.items() if len(np.unique(values)) > 1}
    if not columns:
        return Audit(0.5, (0.5, 0.5), LEVEL, n_real, n_synthetic, [])

    least_in_leaf = max(3, min(20, len(target) // 25))  # small sets need small leaves
    model = HistGradientBoostingClassifier(
        max_iter=60,
        max_leaf_nodes=15,
        min_samples_leaf=least_in_leaf,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    values = np.stack(list(columns.values()), axis=1)
    # A second thread of OpenMP only waits for the first, also of 100,000 images.
    with threadpool_limits(1, "openmp"):
        fitted = cross_validate(
            model, values, target, cv=folds, scoring="roc_auc", return_estimator=True
        )
        auc = float(fitted["test_score"].mean())
        interval = _interval(fitted["test_score"], min(n_real, n_synthetic))
        if interval[0] <= 0.5:
            return Audit(auc, interval, LEVEL, n_real, n_synthetic, [])
        importances = _importances(fitted["estimator"], values, target, folds, seed)

    causes = []
    for (name, column), importance in zip(columns.items(), importances, strict=True):
        auc_alone = _auc_of_small_tree(column, target, folds, least_in_leaf)
        real, synthetic = (_typical(table[name][target == label]) for label in (REAL, SYNTHETIC))
        cause = Cause(name, float(importance), auc_alone, real, synthetic)
        if _weight(cause) >= _WORTH_NAMING:
            causes.append(cause)
    causes.sort(key=_weight, reverse=True)
    return Audit(auc, interval, LEVEL, n_real, n_synthetic, causes[:_MAX_CAUSES])


def _importances(
    models: Sequence[Any],
    values: NDArray[np.float64],
    target: NDArray[np.int64],
    folds: _Folds,
    seed: int,
) -> NDArray[np.float64]:
    """Return the AUC that each column loses when it is shuffled, the mean over the folds.

    models: Of each fold, fitted to the images outside its test rows.
    """
    from sklearn.inspection import permutation_importance

    of_folds = []
    for model, (_, test) in zip(models, folds, strict=True):
        shuffled = permutation_importance(
            model, values[test], target[test], scoring="roc_auc", n_repeats=3, random_state=seed
        )
        of_folds.append(shuffled.importances_mean)
    importances: NDArray[np.float64] = np.mean(of_folds, axis=0)
    return importances


def _auc_of_small_tree(
    column: NDArray[np.float64], target: NDArray[np.int64], folds: _Folds, least_in_leaf: int
) -> float:
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=8, min_samples_leaf=least_in_leaf, random_state=0)
    return float(cross_val_score(tree, column[:, None], target, cv=folds, scoring="roc_auc").mean())


@dataclass(frozen=True)
class StorageAudit:
    """How well the storage of files tells real from synthetic.

    Attributes:
        storage: By format, quality, subsampling, size and metadata; None with too few images.
        size_auc: AUC of the bits per pixel, of whichever class has more.
        size_lowest: The lower end of its interval.
        silent_formats: Formats of these files that do not tell their quality.
    """

    storage: Audit | None
    size_auc: float = 0.5
    size_lowest: float = 0.0
    silent_formats: str = ""

    def findings(self, images: str, consequence: str) -> list[Finding]:
        """Return a finding if the storage of files tells the class, else one if their size does.

        images: What they are called. consequence: What follows from it, as the end of a sentence.
        """
        audit = self.storage
        if audit is None:
            return []
        if audit.interval[0] > WARN_FROM:
            is_severe = audit.interval[0] >= SEVERE_FROM
            return [
                finding(
                    "storage_tells_class" if is_severe else "storage_may_tell_class",
                    images=images,
                    auc=audit.auc,
                    causes=", ".join(map(str, audit.causes[:CAUSES])),
                    consequence=consequence,
                )
            ]
        if self.size_lowest <= WARN_FROM:
            return []
        name = "file_size_may_tell_class" if self.silent_formats else "file_size_tells_class"
        return [finding(name, images=images, auc=self.size_auc, formats=self.silent_formats)]


def storage_audit(samples: Manifest, looks: Mapping[str, Look] | None = None) -> StorageAudit:
    """Return how well the storage of the files of some images of each class tells their class.

    What cannot be opened is passed over.

    Args:
        samples: Images of both classes.
        looks: The headers by path, if they have been read.
    """
    draw = random.Random(0)
    headers: list[Look] = []
    labels: list[int] = []
    groups: list[str] = []
    for label in (REAL, SYNTHETIC):
        of_class = samples.take(samples.labels == label)
        for sample in draw.sample(of_class, min(len(of_class), _LOOKED_AT)):
            header = look(sample.path) if looks is None else looks[sample.path]
            if not header.error:
                headers.append(header)
                labels.append(label)
                groups.append(sample.group)
    if not headers:
        return StorageAudit(None)
    by_storage = audit([header.storage for header in headers], labels, groups)
    if by_storage is None:
        return StorageAudit(None)
    size_auc, size_lowest = _auc_of_size(headers, labels, groups)
    formats = {str(header.storage["file format"]) for header in headers}
    silent = ", ".join(sorted(formats.difference(_TELL_QUALITY)))
    return StorageAudit(by_storage, size_auc, size_lowest, silent)


def _auc_of_size(
    headers: Sequence[Look], labels: Sequence[int], groups: Sequence[str]
) -> tuple[float, float]:
    """Return the AUC of the bits per pixel, of whichever class has more, and its lower end."""
    bits = np.array([header.bits_per_pixel for header in headers])
    is_fake = np.array(labels) == SYNTHETIC
    unit = units(np.array(groups, dtype=np.object_))
    value = auc_of(bits[~is_fake], bits[is_fake]) or 0.0
    if value < 0.5:
        value, bits = 1 - value, -bits
    interval = mean_auc_interval([(bits[~is_fake], bits[is_fake], unit[~is_fake], unit[is_fake])])
    return value, interval[0] if interval else 0.0


def _folds(target: NDArray[np.int64], groups: Sequence[str], seed: int) -> _Folds:
    """Return (train, test) rows of each fold, none if one would lack a class."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if any(groups):
        names = np.array([group or f"\0{row}" for row, group in enumerate(groups)])
        n_folds = min(FOLDS, *(len(set(names[target == label])) for label in (REAL, SYNTHETIC)))
        if n_folds < 2:
            return []
        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        folds = list(splitter.split(target, target, names))
    else:
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        folds = list(splitter.split(target, target))
    # Large groups of one class may leave a fold, or the rest, with that class alone.
    whole = all(len(set(target[part])) == 2 for fold in folds for part in fold)
    return folds if whole else []


def _interval(aucs: NDArray[np.float64], n: int) -> tuple[float, float]:
    """Return the interval of the mean AUC of the folds. n: The images of the smaller class."""
    k = len(aucs)
    deviation = np.sqrt((1 / k + 1 / (k - 1)) * aucs.var(ddof=1))
    half = student.ppf((1 + LEVEL) / 2, k - 1) * deviation
    low, high = (aucs.mean() + np.array([-half, half])).clip(0, 1)
    # All folds may reach 1: n images without an error do not exclude a rate of 3 / n.
    return float(min(low, 1 - 3 / n)), float(high)


def _weight(cause: Cause) -> float:
    """Return a rounded weight, so that properties that say the same keep the table's order."""
    return round(max(cause.importance, cause.auc_alone - 0.5), 2)


def _encoded(column: NDArray[Any]) -> NDArray[np.float64]:
    """Return texts as numbers, the commonest first, and NaN as one that is below all others.

    The trees take NaN too, but not a column that has nothing else in a fold.
    """
    if column.dtype.kind == "f":
        return np.asarray(np.nan_to_num(column, nan=np.nanmin(column, initial=0) - 1))
    commonest_first = Counter(column.tolist()).most_common()
    rank = {text: number for number, (text, _) in enumerate(commonest_first)}
    return np.array([rank[text] for text in column.tolist()], dtype=np.float64)


def _typical(values: NDArray[Any]) -> str:
    """Return the commonest text with its share, or the median and the share that has a number."""
    if values.dtype.kind != "f":
        ((text, count),) = Counter(values.tolist()).most_common(1)
        return f"{text or 'none'} {100 * count / len(values):.0f} %"
    there = values[~np.isnan(values)]
    share = f" in {100 * len(there) / len(values):.0f} %" if len(there) < len(values) else ""
    return f"{np.median(there):.4g}{share}" if len(there) else "none"
