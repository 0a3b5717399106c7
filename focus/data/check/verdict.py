"""One verdict on all findings: what has to be mended before training."""

from focus.data.check.findings import Findings

FIT = "fit for training: no severe finding"
SEVERE_FROM = 0.75
"""AUC, the lower end of its interval, from which on the files' metadata are a severe finding."""


def severe(found: Findings) -> list[str]:
    """Return the severe findings, those that training would not notice, a few words each.

    Leaks are none if a manifest without them was written.
    """
    findings = []
    if pairs := contradictory(found):
        findings.append(f"files given both as real and as synthetic: {len(pairs)}")
    if found.leaks and not found.without_leaks:
        images = len({leak.row for leak in found.leaks})
        findings.append(f"images that are in two splits: {images}")
    audit = found.metadata
    if audit and audit.interval[0] >= SEVERE_FROM:
        cause = f" ({audit.causes[0].name})" if audit.causes else ""
        findings.append(f"the way the files are stored tells the class, AUC {audit.auc:.3f}{cause}")
    return findings


def verdict(found: Findings) -> str:
    """Return the verdict in one line."""
    if obstacle := (found.without_leaks or found.training).obstacle:
        return f"training would not start: {obstacle}"
    if findings := severe(found):
        return f"mend this before training: {'; '.join(findings)}"
    return FIT


def contradictory(found: Findings) -> list[list[str]]:
    """Return the paths of each file that is given as a real image and as a fake."""
    alike: dict[bytes, dict[str, int]] = {}
    for sample, look in zip(found.manifest, found.looks, strict=True):
        if not look.error and sample.label is not None:
            alike.setdefault(look.digest, {})[sample.path] = sample.label
    return [list(labels) for labels in alike.values() if len({*labels.values()}) > 1]
