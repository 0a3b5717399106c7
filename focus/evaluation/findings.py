"""Find what would mislead a reader of results, once, for all who show it.

``results.json`` holds the list; console, report and model card read it there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict

from focus.data.check.shortcuts import OF_TEST, storage_audit
from focus.data.manifest import TEST_SETS, Manifest, Sample
from focus.data.near_far import relation_findings
from focus.errors import shown
from focus.evaluation.protocol import UNNAMED, match, union
from focus.evaluation.result_table import SET_TITLES, text_of
from focus.evaluation.results import Results, figure_at, value_at
from focus.evaluation.scores import Scores
from focus.findings import Finding, finding, worst_first
from focus.metrics.cams import COLLAPSED
from focus.metrics.figures import Keys
from focus.model.operating_points import OperatingPoints

OUTLIERS_SEEN = 0.05
"""Share of CAMs that peak on outlying tokens from which on there is a warning: ten times chance."""
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
    findings = worst_first([*more, *_find(scores, results, points, files)])
    if results is not None:
        results["findings"] = [asdict(entry) for entry in findings]
    return findings


def recorded(results: Results) -> list[Finding]:
    """Return the findings of results.json; none of results that an earlier version wrote."""
    return [Finding(**fields) for fields in results.get("findings", ())]


def _find(
    scores: Scores, results: Results | None, points: OperatingPoints | None, files: bool
) -> list[Finding]:
    """Return the findings; where a class is missing, not those that need it."""
    findings: list[Finding] = []
    warning = points.warning() if points else ""
    if warning:
        findings.append(finding("calibration", text=warning))
    findings += _of_cams(scores, results)

    if results is None:
        return [*findings, finding("no_labels")]
    if results["n_unlabelled"]:
        findings.append(finding("unlabelled", count=results["n_unlabelled"]))
    for missing, there in (("synthetic", "real"), ("real", "synthetic")):
        if results[f"n_{missing}"] == 0:
            return [*findings, finding("one_class", missing=missing, there=there)]

    findings += _worse_than_chance(results)
    if files:
        findings += _stored(scores, results)
    findings += _uncalibrated(results)

    families: dict[tuple[str, str], str] = {}
    for test_set, name, entry in _generators(results):
        families[test_set, "" if name == UNNAMED else name] = entry["family"] or ""
        if entry["auc"] is None:
            findings.append(finding("no_reals", generator=shown(name)))
    training = {name: family or "" for name, family in results["training_families"].items()}
    findings += relation_findings(families, training)
    if results["n_real_unused"]:
        findings.append(finding("unused_reals", count=results["n_real_unused"]))
    return findings


def _generators(results: Results) -> Iterator[tuple[str, str, Results]]:
    for test_set in TEST_SETS:
        for name, entry in (value_at(results, (test_set, "generators")) or {}).items():
            yield test_set, name, entry


def _worse_than_chance(results: Results) -> Iterator[Finding]:
    """Name the AUCs whose whole interval is below 0.5."""
    entries: list[tuple[str, Keys]] = [
        (shown(name), (test_set, "generators", name)) for test_set, name, _ in _generators(results)
    ]
    entries += [
        (f"the mean of the {SET_TITLES[test_set]}", (test_set, "mean")) for test_set in TEST_SETS
    ]

    below = []
    for name, keys in entries:
        _, interval = figure_at(results, (*keys, "auc"))
        if interval is not None and interval[1] < 0.5:
            below.append(f"{name} {text_of(results, (*keys, 'auc'))}")
    if below:
        question = ""
        if value_at(results, ("provenance", "scores")):
            question = " Does a high score mean real in that table? Then give --higher-is real."
        yield finding("worse_than_guessing", below="; ".join(below), question=question)


def _stored(scores: Scores, results: Results) -> Iterator[Finding]:
    """Name the test sets whose two classes are stored in different ways."""
    comparisons = match(scores, results["training_generators"])
    for test_set in TEST_SETS:
        of_set = [c for c in comparisons if c.test_set == test_set]
        compared = scores.select(union(side for c in of_set for side in (c.real, c.fake)))
        columns = zip(compared.path, compared.label, compared.group, strict=True)
        samples = Manifest(Sample(path, label, group=group) for path, label, group in columns)
        yield from storage_audit(samples).findings(SET_TITLES[test_set], OF_TEST)


def _of_cams(scores: Scores, results: Results | None) -> Iterator[Finding]:
    peaks = scores.peak_outlier[scores.peak_outlier >= 0]
    if len(peaks) and peaks.mean() >= OUTLIERS_SEEN:
        yield finding("outlying_tokens", share=peaks.mean())

    if not results:
        return
    for test_set in TEST_SETS:
        share, _ = figure_at(results, (test_set, "pooled", "peak_share"))
        if share is None or share < COLLAPSED:
            continue
        pooled = value_at(results, (test_set, "pooled"))
        if min(pooled["n_real"], pooled["n_synthetic"]) * 2 >= _FEWEST:
            yield finding("collapsed_cam", images=SET_TITLES[test_set], share=share)


def _uncalibrated(results: Results) -> Iterator[Finding]:
    far = []
    for test_set in TEST_SETS:
        value, interval = figure_at(results, (test_set, "pooled", "ece_balanced"))
        if value is not None and interval is not None and interval[0] > _UNCALIBRATED:
            far.append(f"{value:.2f} in the {SET_TITLES[test_set]}")
    if far:
        yield finding("uncalibrated", errors=" and ".join(far))
