"""What is to be known of images before they are trained or tested on.

The data check, training and evaluation ask here, so that all say the same.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from focus.data.check.properties import Look
from focus.data.check.shortcuts import OF_TRAINING, StorageAudit, storage_audit
from focus.data.columns import repeated
from focus.data.copies import Copy, copy_findings, without
from focus.data.known_images import CONTENT
from focus.data.manifest import LABEL_NAMES, SYNTHETIC, Manifest, Sample, place_of
from focus.errors import shown
from focus.findings import Finding, finding

FEW = 10
"""Images of a class or generator, of which fewer say little."""
_NAMED = 6  # kinds of which there are few
# ``Zoë 019_1`` is a picture of ``Zoë 019``.
_NUMBERED = re.compile(r"(.*[^\W_].*?)[ _.-]+[0-9]+")
# Images and share of all that may share a name; what more share is a prefix.
_MOST_NAMESAKES, _MOST_NAMESAKES_SHARE = 5, 0.01


def image_findings(
    manifest: Manifest,
    copies: Sequence[Copy],
    dropped: Sequence[Copy],
    pairs: Sequence[Copy],
    storage: StorageAudit,
) -> list[Finding]:
    """Return what is to be known of the images of a run.

    Args:
        manifest: The images with their splits and the digests of their files, copies included.
        copies: The images of later splits that show a picture of an earlier one.
        dropped: Those of the copies that are left out.
        pairs: The fakes in the split of their source, of the images that are used.
        storage: The audit of :func:`storage_to_train_with`.
    """
    used = without(manifest, dropped)
    return [
        *two_label_findings(manifest),
        *copy_findings(manifest, copies, dropped),
        *storage.findings("images to train with", OF_TRAINING),
        *_beside_source_findings(pairs),
        *namesake_findings(used),
        *few_images_findings(used),
    ]


def storage_to_train_with(used: Manifest, looks: Mapping[str, Look] | None = None) -> StorageAudit:
    """Return the audit of the files of training and validation images.

    looks: The headers by path, if they have been read.
    """
    return storage_audit(used.take(_chosen_on(used)), looks)


def _chosen_on(manifest: Manifest) -> NDArray[np.bool_]:
    """Tell which images are of training or validation, [N]."""
    return manifest.equals("split", "train") | manifest.equals("split", "validation")


def files_of_two_labels(manifest: Manifest) -> list[list[str]]:
    """Return the paths of each file that is given as a real image and as a fake."""
    of_content: defaultdict[str, dict[str, int]] = defaultdict(dict)
    contents = manifest.take(manifest.has(CONTENT))
    for sample in contents.take(repeated(contents.hashes(CONTENT))):
        digest = sample.extra.get(CONTENT, "")
        if sample.label is not None:
            of_content[digest][sample.path] = sample.label
    return [list(labels) for labels in of_content.values() if len({*labels.values()}) > 1]


def two_label_findings(manifest: Manifest) -> list[Finding]:
    """Return a finding of the files that are given as real and as synthetic."""
    files = files_of_two_labels(manifest)
    if not files:
        return []
    return [finding("two_labels", count=len(files), paths=" and ".join(map(repr, files[0])))]


def few_images_findings(manifest: Manifest) -> list[Finding]:
    """Return a finding of the classes and generators that have fewer than ``FEW`` images."""
    counts = Counter[tuple[str, str]]()
    for (split, label, generator), count in manifest.counts("split", "label", "generator").items():
        part = "training" if split in ("train", "validation") else "test"
        if label is not None:
            counts[part, _kind(label, generator)] += count
    few = [
        f"{count} {part} image{'s' if count > 1 else ''}, {kind}"
        for (part, kind), count in sorted(counts.items(), key=lambda item: item[1])
        if count < FEW
    ]
    if not few:
        return []
    if len(few) > _NAMED:
        few = [*few[:_NAMED], f"{len(few) - _NAMED} more"]
    return [finding("few_images", least=FEW, kinds="; ".join(few))]


def namesake_findings(manifest: Manifest) -> list[Finding]:
    """Return a finding of images of a later split that are named as one of an earlier split."""
    namesakes: defaultdict[tuple[str, str], list[Sample]] = defaultdict(list)
    most = max(_MOST_NAMESAKES, _MOST_NAMESAKES_SHARE * len(manifest))
    names = np.fromiter(map(hash, map(_numbered_name, manifest.cells("path"))), np.int64)
    _, positions, counts = np.unique(names, return_inverse=True, return_counts=True)
    has_namesakes = (counts > 1)[positions] & (names != hash(""))
    for sample in manifest.take(has_namesakes):
        kind = _kind(sample.label, sample.generator)
        namesakes[_numbered_name(sample.path), kind].append(sample)
    pairs: list[tuple[Sample, Sample]] = []
    for samples in namesakes.values():
        if len(samples) > most:
            continue
        for earlier, later in (
            (("train",), "validation"),
            (("train", "validation"), "test"),
        ):
            originals = [sample for sample in samples if sample.split in earlier]
            if originals:
                pairs += [(sample, originals[0]) for sample in samples if sample.split == later]
    if not pairs:
        return []
    first, original = (place_of(sample) for sample in pairs[0])
    return [finding("same_stem", count=len(pairs), path=first, original_path=original)]


def _beside_source_findings(pairs: Sequence[Copy]) -> list[Finding]:
    if not pairs:
        return []
    first, original = place_of(pairs[0].sample), place_of(pairs[0].original)
    return [finding("source_in_same_split", count=len(pairs), path=first, original_path=original)]


def _numbered_name(path: str) -> str:
    """Return the name that a file shares with those of other numbers, "" for a file without."""
    name = path[path.rfind(os.sep) + 1 :]
    if not (name[-1:].isdigit() or name.rpartition(".")[0][-1:].isdigit()):
        return ""
    match = _NUMBERED.fullmatch(Path(name).stem)
    return match[1].casefold() if match else ""


def _kind(label: int | None, generator: str) -> str:
    """Return the class of an image, and the generator of a fake."""
    if label is None:
        return "unlabelled"
    is_named = label == SYNTHETIC and generator
    of_generator = f" of {shown(generator)}" if is_named else ""
    return f"{LABEL_NAMES[label]}{of_generator}"
