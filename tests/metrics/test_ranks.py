"""Adjusted p-values, and the ranks that tests of all pairs leave open."""

import math

import pytest

from focus.metrics.ranks import holm, rank_sets


def test_holm_by_hand() -> None:
    # In order .005·4, .01·3, .03·2, .04·1; the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, math.nan, 0.5]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)


def test_ranks_that_a_model_may_have_by_hand() -> None:
    # The first is better than the third for sure, the second may be as good as either.
    differences = {(0, 1): (0.01, 0.2), (0, 2): (0.05, 0.01), (1, 2): (0.04, 0.05)}
    assert rank_sets(3, differences) == [(1, 2), (1, 3), (2, 3)]
    certain = {(0, 1): (-0.1, 0.001), (0, 2): (0.05, 0.01), (1, 2): (0.15, 0.0)}
    assert rank_sets(3, certain) == [(2, 2), (1, 1), (3, 3)]
    assert rank_sets(2, {(0, 1): (0.0, 1.0)}) == [(1, 2), (1, 2)]
