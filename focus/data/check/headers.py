"""Compare how real and synthetic images are stored, by the headers of their files.

No pixel is decoded, so that training and evaluation can afford it: half a second.
"""

import random
from collections.abc import Sequence
from typing import Any

from PIL import Image

from focus.data.check.survey import storage
from focus.data.manifest import REAL, SYNTHETIC, Sample
from focus.findings import Finding

_LOOKED_AT = 500  # images of each class
_CAUSES = 2


def stored_apart(samples: Sequence[Sample], where: str, then: str) -> Finding | None:
    """Return a finding if file formats, sizes and colour modes tell the class.

    It names an AUC and the properties. What cannot be opened is passed over.

    Args:
        samples: Images of both classes.
        where: What they are called.
        then: What follows from it, as the end of a sentence.
    """
    draw = random.Random(0)
    headers, labels, groups = list[dict[str, Any]](), list[int](), list[str]()
    for label in (REAL, SYNTHETIC):
        of_class = [sample for sample in samples if sample.label == label]
        for sample in draw.sample(of_class, min(len(of_class), _LOOKED_AT)):
            if header := _header(sample.path):
                headers.append(header)
                labels.append(label)
                groups.append(sample.group)
    if not headers:
        return None
    # Its trees take a second to import, and tables of scores have no files to tell apart.
    from focus.data.check.shortcuts import SEVERE_FROM, WARN_FROM, audit

    found = audit(headers, labels, groups)
    if found is None or found.interval[0] <= WARN_FROM:
        return None
    return Finding(
        "error" if found.interval[0] >= SEVERE_FROM else "warning",
        f"In the {where}, formats and sizes of the files alone tell real from synthetic (AUC "
        f"{found.auc:.3f}, by {', '.join(map(str, found.causes[:_CAUSES]))}): {then}.",
    )


def _header(path: str) -> dict[str, Any]:
    try:
        with Image.open(path) as image:
            return storage(path, image)
    except Exception:  # decoders raise anything; the pass over all files names bad ones
        return {}
