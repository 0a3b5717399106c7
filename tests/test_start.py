"""The start of the programs: what is loaded, and how threads wait for each other."""

import os

import pytest

from .launching import run

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture(autouse=True)
def as_a_user_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["focus.training.run", "focus.use.evaluate", "focus.use.explain", "focus.annotate"]
)
def test_scikit_learn_is_loaded_where_it_is_used(module: str) -> None:
    """It takes more than a second, and 140 MB in each process."""
    done = run("-c", f"import {module}, sys; print('sklearn' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr


@pytest.mark.parametrize(
    "chosen", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "9"}]
)
def test_threads_sleep_while_they_wait_unless_the_user_has_chosen(chosen: dict[str, str]) -> None:
    code = f"import focus, os; print([os.environ.get(name) for name in {WAITING}])"
    expected = [chosen.get(name) for name in WAITING] if chosen else ["PASSIVE", None, None]
    assert run("-c", code, **chosen).stdout.strip() == str(expected)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="libgomp is that of Linux")
@pytest.mark.parametrize(
    "code",
    ["import focus.kernels.reference", "from focus import Detector", "import focus.training.run"],
)
def test_openmp_reads_it_before_torch_is_imported(code: str) -> None:
    """By what OpenMP prints of itself as it is loaded."""
    done = run("-c", code, OMP_DISPLAY_ENV="verbose")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
    assert "GOMP_SPINCOUNT = '0'" in done.stderr
