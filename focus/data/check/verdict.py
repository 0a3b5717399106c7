"""The verdict on all that the check found, in words."""

from focus.data.check.findings import CheckedData

FIT = "fit for training"


def is_fit(checked: CheckedData) -> bool:
    """Return whether nothing has to be mended before training."""
    return not any(one.severity == "error" for one in checked.findings)


def verdict(checked: CheckedData) -> str:
    """Return the verdict in one line, and each finding in one below, worst first."""
    head = FIT if is_fit(checked) else "mend this before training"
    if not checked.findings:
        return head
    return "\n".join([f"{head}:", *map(str, checked.findings)])
