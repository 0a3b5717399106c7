"""How well the label is told without looking at the face: what a detector may learn instead.

Gradient-boosted trees predict the label from a table of properties, in cross-validation that never
goes through a group. A fold's scores are replaced by their ranks in it, since folds are not
calibrated against each other; the AUC is that of all images. Its interval has the percentiles of a
bootstrap over the groups (over the images where there are none), widened for what the bootstrap
does not see, that the folds' models share most of their images (Nadeau and Bengio, *Inference for
the Generalization Error*, 2003: the variance times 1 + k / (k - 1) for k folds). Without the
widening, 82 % of the intervals of labels drawn at random held 0.5.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.inspection import permutation_importance
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from focus import metrics
from focus.data.check.features import Column, Table
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC

MIN_IMAGES = 20
"""Of each class; fewer say nothing."""
FOLDS = 5

_RESAMPLES = 1000
_MAX_CAUSES = 5
# What a property must add to the AUC, or have alone above a half, to be named.
_WORTH_NAMING = 0.02

_Float = NDArray[np.float64]
_Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class Cause:
    """A property that gives the label away.

    importance: what the AUC loses when its values are shuffled among the held-out images; 0 where
    another property says the same. auc_alone: of a small tree that knows nothing else. real,
    synthetic: the commonest value of the class with its share, or the median, and where that is the
    same in both the share of the images that have a value.
    """

    name: str
    importance: float
    auc_alone: float
    real: str
    synthetic: str


@dataclass(frozen=True, slots=True)
class Audit:
    """AUC of the label from one table, with its interval, and the causes, strongest first."""

    auc: float
    low: float
    high: float
    n_real: int
    n_synthetic: int
    causes: list[Cause]


def audit(
    table: Table, labels: Sequence[int], groups: Sequence[str] | None = None, *, seed: int = 0
) -> Audit | None:
    """How well ``table`` predicts the labels; None with too few images, or groups, of a class.

    labels: 0 real, 1 synthetic. groups: what must not be divided, "" for an image by itself.
    """
    target = np.array(labels, dtype=np.int64)
    n_real, n_synthetic = int((target == REAL).sum()), int((target == SYNTHETIC).sum())
    if min(n_real, n_synthetic) < MIN_IMAGES:
        return None
    members = _members(groups, len(target))
    folds = _folds(target, members, seed)
    if folds is None:
        return None
    names = [name for name, column in table.items() if _varies(column)]
    if not names:
        return Audit(0.5, 0.5, 0.5, n_real, n_synthetic, [])

    # A second thread of OpenMP only waits for the first, also of 100,000 images.
    with threadpool_limits(1, "openmp"):
        values = np.stack([_encoded(table[name]) for name in names], axis=1)
        models = [_model(values[rest], target[rest], seed) for rest, _ in folds]
        ranks = np.zeros(len(target))
        for model, (_, held_out) in zip(models, folds, strict=True):
            ranks[held_out] = _ranks(model.decision_function(values[held_out]))
        auc = float(roc_auc_score(target, ranks))
        low, high = _interval(ranks, target, members, len(folds), seed)
        causes: list[Cause] = []
        if low > 0.5:
            importance = _importance(models, values, target, folds, seed)
            causes = [
                Cause(
                    name,
                    importance[at],
                    _alone(values[:, [at]], target, folds),
                    *_typical_of_classes(table[name], target),
                )
                for at, name in enumerate(names)
            ]
            causes = [cause for cause in causes if _weight(cause) >= _WORTH_NAMING]
            causes.sort(key=_weight, reverse=True)
    return Audit(auc, low, high, n_real, n_synthetic, causes[:_MAX_CAUSES])


def describe(cause: Cause) -> str:
    """``file format (real: JPEG 100 %, synthetic: PNG 100 %)``."""
    classes = ((LABEL_NAMES[REAL], cause.real), (LABEL_NAMES[SYNTHETIC], cause.synthetic))
    return f"{cause.name} ({', '.join(f'{name}: {value}' for name, value in classes)})"


def _members(groups: Sequence[str] | None, n: int) -> NDArray[np.int64]:
    """A number for each group, images by themselves having their own."""
    names = np.array(groups or [""] * n, dtype=np.object_)
    return np.unique(metrics.units(names), return_inverse=True)[1]


def _folds(target: NDArray[np.int64], members: NDArray[np.int64], seed: int) -> _Folds | None:
    n_groups = min(len(set(members[target == label].tolist())) for label in (REAL, SYNTHETIC))
    if n_groups < 2:
        return None
    n_folds = min(FOLDS, n_groups)
    whole = len(set(members.tolist())) == len(members)
    kind = StratifiedKFold if whole else StratifiedGroupKFold  # which takes long for many groups
    splitter = kind(n_folds, shuffle=True, random_state=seed)
    folds = list(splitter.split(target, target, None if whole else members))
    # Large groups of one class may leave a fold, or the rest, with that class alone.
    if any(len(set(target[part].tolist())) < 2 for fold in folds for part in fold):
        return None
    return folds


def _model(values: _Float, target: NDArray[np.int64], seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        max_iter=60,
        max_leaf_nodes=15,
        # Small sets need small leaves to tell anything apart.
        min_samples_leaf=_leaf(len(target)),
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    ).fit(values, target)


def _leaf(n: int) -> int:
    return max(3, min(20, n // 25))


def _ranks(scores: _Float) -> _Float:
    """In (0, 1); equal scores share their mean rank."""
    ranks: _Float = (rankdata(scores) - 0.5) / len(scores)
    return ranks


def _importance(
    models: Sequence[HistGradientBoostingClassifier],
    values: _Float,
    target: NDArray[np.int64],
    folds: _Folds,
    seed: int,
) -> list[float]:
    """What the AUC of the held-out images loses when a column is shuffled, mean of the folds."""
    lost = np.mean(
        [
            permutation_importance(
                model,
                values[held_out],
                target[held_out],
                scoring="roc_auc",
                n_repeats=3,
                random_state=seed,
            ).importances_mean
            for model, (_, held_out) in zip(models, folds, strict=True)
        ],
        axis=0,
    )
    return [float(loss) for loss in lost]


def _weight(cause: Cause) -> float:
    """Equal for properties that say the same: sorted, they keep their order in the table."""
    return round(max(cause.importance, cause.auc_alone - 0.5), 2)


def _alone(column: _Float, target: NDArray[np.int64], folds: _Folds) -> float:
    tree = DecisionTreeClassifier(
        max_leaf_nodes=8, min_samples_leaf=_leaf(len(target)), random_state=0
    )
    scores = cross_val_predict(tree, column, target, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(target, scores))


def _interval(
    scores: _Float, target: NDArray[np.int64], members: NDArray[np.int64], k: int, seed: int
) -> tuple[float, float]:
    """Percentiles of the AUC when the groups are drawn again, with replacement; widened."""
    generator = np.random.default_rng(seed)
    n_groups = int(members.max()) + 1
    real, fake = target == REAL, target == SYNTHETIC
    ranking = metrics.Ranking.of(scores[real], scores[fake])
    auc = float(roc_auc_score(target, scores))
    found = []
    for _ in range(_RESAMPLES):
        drawn = np.bincount(generator.integers(n_groups, size=n_groups), minlength=n_groups)
        weight = drawn[members][None]
        found.append(ranking.weigh(weight[:, real], weight[:, fake]).auc()[0])
    level = metrics.LEVEL
    ends = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    low, high = (auc + (ends - auc) * np.sqrt(1 + k / (k - 1))).clip(0, 1)
    return float(low), float(high)


def _varies(column: Column) -> bool:
    if isinstance(column, list):
        return len(set(column)) > 1
    return len(np.unique(column)) > 1  # all NaN count as one value


def _encoded(column: Column) -> _Float:
    """Texts become numbers, the commonest first; NaN one that is below all others.

    The trees take NaN too, but not a column that has nothing else in a fold.
    """
    if not isinstance(column, list):
        return np.where(np.isnan(column), np.nanmin(column) - 1, column)
    order = {text: at for at, (text, _) in enumerate(Counter(column).most_common())}
    return np.array([order[text] for text in column], dtype=np.float64)


def _typical_of_classes(column: Column, target: NDArray[np.int64]) -> tuple[str, str]:
    """Of real and of synthetic; where the same value is in some images only, in how many."""
    classes = [target == label for label in (REAL, SYNTHETIC)]
    real, synthetic = (_typical(column, chosen) for chosen in classes)
    if real == synthetic and not isinstance(column, list) and np.isnan(column).any():
        shares = [100 * (1 - np.isnan(column[chosen]).mean()) for chosen in classes]
        real, synthetic = (f"{real} in {share:.0f} %" for share in shares)
    return real, synthetic


def _typical(column: Column, chosen: NDArray[np.bool_]) -> str:
    if isinstance(column, list):
        texts = [text for text, here in zip(column, chosen, strict=True) if here]
        ((text, count),) = Counter(texts).most_common(1)
        return f"{text or 'none'} {100 * count / len(texts):.0f} %"
    values = column[chosen]
    values = values[~np.isnan(values)]
    return f"{np.median(values):.4g}" if len(values) else "none"
