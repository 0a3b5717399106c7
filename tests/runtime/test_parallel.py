"""Functions called in several processes: in order, and from a program without a main guard."""

import subprocess
import sys

import pytest

from focus.runtime.parallel import parallel_map


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes: int) -> None:
    results = parallel_map(abs, range(-20, 20), "", processes=processes, progress=False)
    assert list(results) == [abs(number) for number in range(-20, 20)]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_the_function_is_raised(processes: int) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(parallel_map(int, ["1", "x"], "", processes=processes, progress=False))


def test_a_program_that_has_no_main_guard_is_not_imported_again() -> None:
    program = (
        "from focus.runtime.parallel import parallel_map\n"
        "print('begun')\n"
        "print(list(parallel_map(abs, [-1, -2], '', processes=2, progress=False)))\n"
    )
    done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True)
    assert done.stdout == "begun\n[1, 2]\n", done.stderr
