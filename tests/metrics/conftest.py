"""Share random numbers."""

import numpy as np
import pytest


@pytest.fixture
def random() -> np.random.Generator:
    """Return its own for each test: no order of tests changes what is drawn."""
    return np.random.default_rng(0)
