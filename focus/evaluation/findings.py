"""Find what would mislead a reader of results, once, for all who show it.

``results.json`` holds the list; console, report and model card read it there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict

from focus.data.check.headers import stored_apart
from focus.data.manifest import TEST_SETS, Sample
from focus.data.near_far import relation_findings
from focus.errors import shown
from focus.evaluation.protocol import UNNAMED, match, union
from focus.evaluation.result_table import SET_TITLES, at, figure, text_of
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.findings import Finding, worst_first
from focus.metrics.figures import Place
from focus.model.operating_points import OperatingPoints

OUTLIERS_SEEN = 0.05
"""Share of CAMs that peak on outlying tokens from which on there is a warning: ten times chance."""
COLLAPSED = 0.9
"""Share of CAMs that peak in one cell from which on there is a warning."""
_FEWEST = 20  # CAMs, of which that share says something
_UNCALIBRATED = 0.1  # expected calibration error, the lower end of its interval


def add_findings(
    results: Results | None,
    scores: Scores,
    points: OperatingPoints | None = None,
    more: Iterable[Finding] = (),
    *,
    files: bool = True,
) -> list[Finding]:
    """Put all findings into results.json, worst first, and return them.

    Args:
        results: They get the findings; None if no image has a label.
        points: The operating points chosen on validation.
        more: Findings that are known already, as those on the images.
        files: Whether to look at the headers of the images' files.
    """
    found = worst_first([*more, *_find(scores, results, points, files)])
    if results is not None:
        results["findings"] = [asdict(each) for each in found]
    return found


def recorded(results: Results) -> list[Finding]:
    """Return the findings of results.json; none of results that an earlier version wrote."""
    return [Finding(**each) for each in results.get("findings", ())]


def _find(
    scores: Scores, results: Results | None, points: OperatingPoints | None, files: bool
) -> list[Finding]:
    found = [Finding("warning", text) for text in [points.warning() if points else ""] if text]
    found += _of_cams(scores, results)
    if results is None:
        return [*found, Finding("note", "No image has a label: scores only, no results.")]
    if unlabelled := results["n_unlabelled"]:
        text = f"Images without label: {unlabelled}; they are scored and in no result."
        found.append(Finding("note", text))
    for kind, other in (("synthetic", "real"), ("real", "synthetic")):
        if results[f"n_{kind}"] == 0:
            text = f"There are no {kind} images, only {other} ones: no AUC is defined."
            return [*found, Finding("warning", text)]
    found += _worse_than_chance(results)
    if files:
        found += _stored(scores, results)
    found += _uncalibrated(results)
    families: dict[tuple[str, str], str] = {}
    for test_set, name, entry in _generators(results):
        families[test_set, "" if name == UNNAMED else name] = entry["family"] or ""
        if entry["auc"] is None:
            text = f"{shown(name)} has no real images to be told from: its AUC is not defined."
            found.append(Finding("warning", text))
    training = {name: family or "" for name, family in results["training_families"].items()}
    found += relation_findings(families, training)
    if unused := results["n_real_unused"]:
        text = f"Real images that no synthetic image is told from: {unused}; they are in no result."
        found.append(Finding("note", text))
    return found


def _generators(results: Results) -> Iterator[tuple[str, str, Results]]:
    for test_set in TEST_SETS:
        for name, entry in (at(results, (test_set, "generators")) or {}).items():
            yield test_set, name, entry


def _worse_than_chance(results: Results) -> Iterator[Finding]:
    """Name the AUCs whose whole interval is below 0.5."""
    places: list[tuple[str, Place]] = [
        (shown(name), (test_set, "generators", name)) for test_set, name, _ in _generators(results)
    ]
    places += [(f"the mean of the {SET_TITLES[s]}", (s, "mean")) for s in TEST_SETS]
    below = []
    for name, keys in places:
        _, interval = figure(results, (*keys, "auc"))
        if interval is not None and interval[1] < 0.5:
            below.append(f"{name} {text_of(results, (*keys, 'auc'))}")
    if below:
        question = (
            " Does a high score mean real in that table? Then give --higher-is real."
            if at(results, ("provenance", "scores"))
            else ""
        )
        yield Finding(
            "error",
            f"Worse than guessing: real and synthetic images are ranked the wrong way round, with "
            f"an AUC surely below 0.5, for {'; '.join(below)}.{question}",
        )


def _stored(scores: Scores, results: Results) -> Iterator[Finding]:
    """Name the test sets whose two classes are stored in different ways."""
    comparisons = match(scores, results["training_generators"])
    for test_set in TEST_SETS:
        own = [c for c in comparisons if c.test_set == test_set]
        part = scores.select(union(side for c in own for side in (c.real, c.fake)))
        about = zip(part.path, part.label, part.group, strict=True)
        samples = [Sample(path, label, group=group) for path, label, group in about]
        if found := stored_apart(samples, SET_TITLES[test_set], "its AUC may be that of the files"):
            yield found


def _of_cams(scores: Scores, results: Results | None) -> Iterator[Finding]:
    known = scores.peak_outlier[scores.peak_outlier >= 0]
    if len(known) and known.mean() >= OUTLIERS_SEEN:
        yield Finding(
            "warning",
            f"The CAM of {known.mean():.0%} of the images peaks on a token of outlying norm, where "
            "chance gives 0.5 %: such tokens say little of their place, so do not trust the CAMs, "
            "and take a network with registers.",
        )
    for test_set in TEST_SETS if results else ():
        share, _ = figure(results or {}, (test_set, "pooled", "peak_share"))
        counts = [at(results, (test_set, "pooled", f"n_{kind}")) for kind in ("real", "synthetic")]
        if share is not None and share >= COLLAPSED and min(counts) * 2 >= _FEWEST:
            yield Finding(
                "warning",
                f"The CAM has collapsed: in the {SET_TITLES[test_set]} it peaks in the same cell "
                f"in {share:.0%} of the images, whatever they show; lower --focus-weight.",
            )


def _uncalibrated(results: Results) -> Iterator[Finding]:
    far = []
    for test_set in TEST_SETS:
        value, interval = figure(results, (test_set, "pooled", "ece_balanced"))
        if value is not None and interval is not None and interval[0] > _UNCALIBRATED:
            far.append(f"{value:.2f} in the {SET_TITLES[test_set]}")
    if far:
        yield Finding(
            "note",
            f"The scores are not calibrated as probabilities: their error is {' and '.join(far)}, "
            "at as many real as synthetic images.",
        )
