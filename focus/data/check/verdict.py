"""The verdict on all that the check found, in words."""

from focus.data.check.findings import Findings

FIT = "fit for training"


def is_fit(found: Findings) -> bool:
    """Return whether nothing has to be mended before training."""
    return not any(one.severity == "error" for one in found.findings)


def verdict(found: Findings) -> str:
    """Return the verdict in one line, and each finding in one below, worst first."""
    head = FIT if is_fit(found) else "mend this before training"
    if not found.findings:
        return head
    return "\n".join([f"{head}:", *map(str, found.findings)])
