"""Turn scores into log-likelihood ratios: Platt's line and a temperature, fitted on validation.

Both act on the logit of the score, which is clipped at ``LARGEST_LOGIT``: beyond it a detector says
no more than that it is sure, and a line through such logits would follow the surest images.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from focus.metrics.arrays import Array, Floats, distinct, finite
from focus.runtime.json_files import Finite, Positive

LARGEST_LOGIT = 16.0


@dataclass(frozen=True)
class Calibration:
    """A line from the logit of a score to a log-likelihood ratio, and a temperature.

    slope, intercept: The natural logarithm of p(score | synthetic) / p(score | real) is ``slope *
        logit(score) + intercept`` (Platt, 1999).
    temperature: The divisor of the logit (Guo et al., 2017), above 1 where the scores are too sure.
    largest_llr: The largest absolute value of a ratio's logarithm that the number of validation
        images supports, above 0; None does not clip.
    """

    slope: Finite
    intercept: Finite
    temperature: Positive
    largest_llr: Positive | None = None

    def llr(self, scores: Array) -> Floats:
        """Return the natural logarithm of the likelihood ratio, synthetic over real, [N].

        Above 0 it speaks for synthetic whatever share of the images is; the logit of the
        probability of synthetic is this plus the logit of that share. Within ``largest_llr``.
        """
        llr = self.slope * logits(scores) + self.intercept
        largest = self.largest_llr
        return llr if largest is None else np.clip(llr, -largest, largest)

    def tempered(self, scores: Array) -> Floats:
        """Return the probability of synthetic after the temperature, [N]."""
        return np.asarray(special.expit(logits(scores) / self.temperature), dtype=np.float64)


def logits(scores: Array) -> Floats:
    """Return the logits [N] of ``scores`` [N] in [0, 1], within ``LARGEST_LOGIT``."""
    logit = special.logit(np.clip(finite(scores, "scores"), 0, 1))
    return np.asarray(np.clip(logit, -LARGEST_LOGIT, LARGEST_LOGIT), dtype=np.float64)


def fit_calibration(
    real_scores: Array,
    fake_scores: Array,
    real_units: Array | None = None,
    fake_units: Array | None = None,
) -> Calibration | None:
    """Fit it to scores [M] of real images and [N] of fakes; None where a class is empty.

    real_units, fake_units: The unit of each image, [M] and [N], as
        :func:`focus.metrics.bootstrap.units` returns them; by default each image is a unit.

    The classes weigh alike, so that the line does not depend on how many are fakes.
    Platt's targets, (n + 1) / (n + 2) for a class of n units, keep line and temperature finite
    where the classes are apart. Ratios are clipped to log(n + 1) of the smaller class: n images
    cannot support a larger one (Vergeer et al., 2016, bound them alike).
    """
    if not (len(real_scores) and len(fake_scores)):
        return None
    # Imported late: it takes most of a second, and who loads a detector fits no line.
    from sklearn.linear_model import LogisticRegression

    n_images = np.array([len(real_scores), len(fake_scores)])  # of each class
    n_units = np.array(
        [
            count if units is None else len(np.unique(units))
            for count, units in zip(n_images, (real_units, fake_units), strict=True)
        ]
    )
    logit = logits(np.concatenate([real_scores, fake_scores]))
    label = np.repeat([0, 1], n_images)
    class_size = n_images[label]
    target = ((n_units + 1) / (n_units + 2))[label]  # the probability of an image's own class

    # The regression takes labels and no probabilities: each image is there twice, with its label by
    # the weight ``target``, and with the other label by the rest.
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(logit, 2)[:, None],
        np.concatenate([label, 1 - label]),
        sample_weight=np.concatenate([target, 1 - target]) / np.tile(class_size, 2),
    )

    def loss(log_temperature: float) -> float:
        logit_of_other = np.where(label == 1, -logit, logit) / np.exp(log_temperature)
        costs = target * np.logaddexp(0, logit_of_other)
        costs += (1 - target) * np.logaddexp(0, -logit_of_other)
        return float((costs / class_size).sum())

    fitted = optimize.minimize_scalar(loss, bounds=(-3, 5), method="bounded")
    return Calibration(
        float(fit.coef_[0, 0]),
        float(fit.intercept_[0]),
        float(np.exp(fitted.x)),
        math.log(min(n_units.tolist()) + 1),
    )


def min_cllr(real_scores: Array, fake_scores: Array) -> float | None:
    """Return C_llr of the best ratios that rise with the score, in bits; None without both classes.

    The ratios are those of the pool-adjacent-violators algorithm on these very scores (Brümmer and
    du Preez, 2006), the classes weighing alike: what remains is the cost of the ranking alone.
    """
    if not (len(real_scores) and len(fake_scores)):
        return None
    from sklearn.isotonic import IsotonicRegression  # late, as in fit_calibration

    real, fake = (np.sort(scores, kind="stable") for scores in (real_scores, fake_scores))
    # By rank, as the interpolation divides by zero between scores that differ by a rounding. Reals
    # with no fake between them have one share: their ends are below a fake, or above all.
    levels = distinct(fake)
    reals, fakes = (
        np.append(
            np.stack(
                [np.searchsorted(scores, levels), np.searchsorted(scores, levels, side="right")],
                axis=1,
            ),
            len(scores),
        )
        for scores in (real, fake)
    )
    has_images = np.diff(reals + fakes, prepend=0) > 0
    reals, fakes = reals[has_images], fakes[has_images]
    # So have fakes with no real image between them.
    of_reals, of_fakes = (np.diff(counts, prepend=0) > 0 for counts in (reals, fakes))
    alike = (of_reals[1:] == of_reals[:-1]) & (of_fakes[1:] == of_fakes[:-1])
    last = np.append(~alike | (of_reals & of_fakes)[1:], True)
    of_real = np.diff(reals[last], prepend=0) / len(real)
    of_fake = np.diff(fakes[last], prepend=0) / len(fake)

    weight = of_real + of_fake
    share = IsotonicRegression().fit_transform(
        np.arange(len(weight)), of_fake / weight, sample_weight=weight
    )
    with np.errstate(divide="ignore"):  # of a class that has no image there
        costs = np.where(of_fake > 0, -np.log2(share), 0) * of_fake
        costs += np.where(of_real > 0, -np.log2(1 - share), 0) * of_real
    return float(costs.sum() / 2)


def llr_costs(llr: Array, label: int) -> Floats:
    """Return the cost of each log-likelihood ratio of images of class ``label``, in bits, [N].

    llr [N], natural logarithms. The mean over the two classes of the mean of each is C_llr (Brümmer
    and du Preez, 2006): 0 if the ratios tell all, 1 if they tell nothing.
    """
    wrong = np.asarray(llr, dtype=np.float64) * (-1 if label else 1)
    with np.errstate(invalid="ignore"):  # NaN without a calibration
        return np.asarray(np.logaddexp(0, wrong) / np.log(2), dtype=np.float64)
