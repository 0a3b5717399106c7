"""Warn where words beside images contradict their labels.

A number does not say which class it is: in Kaggle's "140k real and fake faces" 1 is real, as the
folders and a column of the table tell. A folder of fakes may hold a folder of real images.
"""

import logging
import os
import re
from collections import Counter, defaultdict
from functools import lru_cache

from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest, Sample
from focus.data.near_far import family_of

_log = logging.getLogger(__name__)

_WORDS = {
    **dict.fromkeys(("real", "reals", "original", "authentic", "pristine"), REAL),
    **dict.fromkeys(("fake", "fakes", "synthetic", "synthesis", "manipulated"), SYNTHETIC),
}


def warn_of_label_conflicts(samples: Manifest, root: str) -> None:
    """Warn, once, if folders below ``root``, or cells, say one class and the labels the other.

    A word counts only if it is more usual among the images whose label it contradicts than among
    those that it fits: a folder may be named after what is in the pictures.
    """
    n_labelled = Counter(sample.label for sample in samples)
    said: defaultdict[tuple[int, int], list[tuple[Sample, str]]] = defaultdict(list)
    for sample in samples:
        class_, word = _said_of(sample, root)
        if class_ is not None and sample.label is not None:
            said[class_, sample.label].append((sample, word))
    for (class_, label), found in list(said.items()):
        agreeing = len(said[class_, class_]) / max(n_labelled[class_], 1)
        if class_ != label and len(found) / n_labelled[label] > agreeing:
            sample, word = found[0]
            _log.warning(
                "%s: %d of %d images taken for %s are %s by the name %r beside them, the first is "
                "%r: if labels are the other way round, call their column is_real or give "
                "--columns label=NAME; if a folder holds both classes, give its folders one by one",
                *(samples.source, len(found), n_labelled[label], LABEL_NAMES[label]),
                *(LABEL_NAMES[class_], word, sample.path),
            )
            return


def _said_of(sample: Sample, root: str) -> tuple[int | None, str]:
    """Return the class that a cell, else the innermost folder that has one, names, and the word."""
    for cell in (sample.generator, *sample.extra.values()):
        if (class_ := _WORDS.get(cell.strip().casefold())) is not None:
            return class_, cell
    return _said_by_folders(os.path.dirname(sample.path.removeprefix(root)))  # noqa: PTH120


@lru_cache(maxsize=4096)
def _said_by_folders(folder: str) -> tuple[int | None, str]:
    for name in reversed(folder.split("/")):
        words = set(re.findall(r"[^\W\d_]+", name.casefold()))
        classes = {_WORDS[word] for word in words & _WORDS.keys()}
        # "Real-ESRGAN" is a generator.
        if len(classes) == 1 and not family_of(name) and not any(w.endswith("gan") for w in words):
            return classes.pop(), name
    return None, ""
