"""Say where files alone would tell real from synthetic, whatever the AUC of a test set."""

from collections.abc import Iterable

from focus.data.check.headers import stored_apart
from focus.data.manifest import TEST_SETS, Sample
from focus.evaluation.protocol import match, union
from focus.evaluation.result_table import SET_TITLES
from focus.evaluation.scores import Scores


def storage_notes(scores: Scores, training_generators: Iterable[str]) -> list[str]:
    """Return a line for each test set whose two classes are stored in different ways."""
    comparisons, notes = match(scores, training_generators), []
    for test_set in TEST_SETS:
        own = [c for c in comparisons if c.test_set == test_set]
        part = scores.select(union(side for c in own for side in (c.real, c.fake)))
        about = zip(part.path, part.label, part.group, strict=True)
        if found := stored_apart(
            [Sample(path, label, group=group) for path, label, group in about]
        ):
            notes.append(
                f"In the {SET_TITLES[test_set]}, formats and sizes of the files alone tell real "
                f"from synthetic ({found}): its AUC may be that of the files."
            )
    return notes
