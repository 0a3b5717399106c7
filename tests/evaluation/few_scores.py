"""What the tests of results share: scores from a few words, results without intervals."""

from typing import Any

from focus.evaluation.results import summarise as summarise_with_intervals
from focus.evaluation.scores import Scores


def summarise(scores: Scores, *arguments: Any) -> dict[str, Any]:
    """Without intervals, which have tests of their own."""
    return summarise_with_intervals(scores, *arguments, resamples=0)


def table(rows: list[tuple[int, str, str, float]], **columns: Any) -> Scores:
    """Scores from (label, generator, test set, score)."""
    n = len(rows)
    label, generator, test_set, numbers = zip(*rows, strict=True)
    filled_columns: dict[str, Any] = {
        "index": range(n),
        "path": [f"{i}.png" for i in range(n)],
        "label": label,
        "generator": generator,
        "test_set": test_set,
        "score": numbers,
        "predicted": [int(number > 0.5) for number in numbers],
    }
    filled_columns |= dict.fromkeys(("family", "split", "group"), [""] * n)
    filled_columns |= dict.fromkeys(("pointing_hit", "pointing_hit_synthetic"), [-1] * n)
    return Scores(**(dict.fromkeys(Scores.__annotations__, [0] * n) | filled_columns | columns))
