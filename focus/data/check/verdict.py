"""Judge all that the check found: what has to be mended before training, what to know."""

from collections.abc import Iterator

from focus.data.bad_files import ODD, bad_finding, odd_finding
from focus.data.check.findings import Findings
from focus.data.check.leaks import PAIR
from focus.data.check.shortcuts import SEVERE_FROM, WARN_FROM, Audit
from focus.findings import Finding, worst_first

FIT = "fit for training"
GROUP = " (a column group, or --columns group=NAME)"


def judged(found: Findings) -> list[Finding]:
    """Return what the check found, worst first.

    Leaks are no finding if a manifest without them was written.
    """
    return worst_first(_judged(found))


def is_fit(found: Findings) -> bool:
    """Return whether nothing has to be mended before training."""
    return not any(each.severity == "error" for each in judged(found))


def verdict(found: Findings) -> str:
    """Return the verdict in one line, and each finding in one below."""
    head = FIT if is_fit(found) else "mend this before training"
    return "\n".join([f"{head}{':' * bool(judged(found))}", *map(str, judged(found))])


def contradictory(found: Findings) -> list[list[str]]:
    """Return the paths of each file that is given as a real image and as a fake."""
    alike: dict[bytes, dict[str, int]] = {}
    for sample, look in zip(found.manifest, found.looks, strict=True):
        if not look.error and sample.label is not None:
            alike.setdefault(look.digest, {})[sample.path] = sample.label
    return [list(labels) for labels in alike.values() if len({*labels.values()}) > 1]


def _judged(found: Findings) -> Iterator[Finding]:
    if obstacle := (found.without_leaks or found.training).obstacle:
        yield Finding("error", f"Training would not start: {obstacle}")
    if pairs := contradictory(found):
        yield Finding(
            "error",
            f"{len(pairs)} files are given both as real and as synthetic, the first as "
            f"{' and '.join(map(repr, pairs[0]))}: keep one of each.",
        )
    leaks = [] if found.without_leaks else found.leaks
    copied = {leak.row for leak in leaks if leak.kind != PAIR}
    if copied:
        text = f"{len(copied)} images are in a later split too: --drop-leaks leaves them out."
        yield Finding("error", text)
    if torn := {leak.row for leak in leaks if leak.kind == PAIR} - copied:
        yield Finding(
            "error",
            f"{len(torn)} images are a fake and its source in different splits: --drop-leaks "
            "leaves them out; or move both into one split, or, where splits are drawn, give a "
            f"table in which both have the same group{GROUP}.",
        )
    if found.pairs:
        yield Finding(
            "note",
            f"{len(found.pairs)} fakes are in the split of their source, the real face that they "
            "were made from: where splits are drawn, give a table in which both have the same group"
            f"{GROUP}, so that they stay together.",
        )
    stored, processed = "Metadata of the files alone tell", "Low-level statistics alone tell"
    yield from _shortcut(found.metadata, stored, "store both classes in the same way", SEVERE_FROM)
    yield from _shortcut(found.pixels, processed, "give both classes the same processing", 2)
    yield from bad_finding(found.bad)
    for odd in ODD:
        yield from odd_finding(odd, found.odd(odd))
    if found.n_unmatched:
        yield Finding("warning", f"{found.n_unmatched} human maps belong to no image.")


def _shortcut(audit: Audit | None, what: str, remedy: str, error_from: float) -> Iterator[Finding]:
    """Judge an AUC of the class, an error from ``error_from`` on.

    Statistics of pixels are never one, as they may be the generator's own.
    """
    if audit is None or audit.interval[0] <= WARN_FROM:
        return
    cause = f", by {audit.causes[0]}" if audit.causes else ""
    yield Finding(
        "error" if audit.interval[0] >= error_from else "warning",
        f"{what} the class with AUC {audit.auc:.3f}{cause}, and a detector can learn that instead "
        f"of the face: {remedy}, and once it is trained see what its AUC owes to it: "
        "focus evaluate --run runs/NAME --equalise.",
    )
