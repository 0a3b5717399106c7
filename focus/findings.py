"""Findings: what a reader must know before the figures, each with its severity and its words.

``FINDINGS`` is the one table of them. Data check, training, evaluation, report and model card say a
finding in its words, and name it by its id in ``check.json`` and ``results.json``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

Severity = Literal["error", "warning", "note"]
_ORDER = get_args(Severity)


class _Row(NamedTuple):
    severity: Severity
    words: str
    """One or two sentences, with the names of values in braces."""


_STORED = (
    "In the {images}, the storage of the files alone tells real from synthetic with AUC {auc:.3f}, "
    "by {causes}: {consequence}."
)

FINDINGS: dict[str, _Row] = {
    # Of the data.
    "training_refused": _Row("error", "Training would not start: {obstacle}"),
    "two_labels": _Row(
        "error",
        "{count} files are given both as real and as synthetic, the first as {paths}: keep one of "
        "each.",
    ),
    "labels_reversed": _Row(
        "error",
        "{source}: {count} of {total} images taken for {label} are {other} by the name {word!r} "
        "beside them, the first is {path!r}: if labels are the other way round, call their column "
        "is_real or give --columns label=NAME; if a folder holds both classes, give its folders "
        "one by one.",
    ),
    "labels_partly_wrong": _Row(
        "error",
        "{source}: {count} of {total} images taken for {label} are {other} by the name {word!r} "
        "beside them, which fits the labels of the other images, the first is {path!r}: mend these "
        "labels, or rename what is named after something else.",
    ),
    "copies_scored": _Row(
        "error",
        "{count} of {total} {images} are copies of {original} images ({kinds}), the first is "
        "{path!r} of {original_path!r}: --drop-copies leaves them out of focus train.",
    ),
    "copies_left_out": _Row(
        "warning",
        "{count} of {total} {images} are left out, being copies of {original} images ({kinds}), "
        "the first is {path!r} of {original_path!r}.",
    ),
    "more_copies": _Row(
        "warning", "{count} more sets hold copies: the table of copies lists them."
    ),
    "source_in_other_split": _Row(
        "error",
        "{count} of {total} {images} are a fake whose source, the real face that it was made from, "
        "is among the {original} images, or the reverse, the first is {path!r} of "
        "{original_path!r}: --drop-copies leaves them out of focus train; or move both into one "
        "split, or, where splits are drawn, give a table in which both have the same group (a "
        "column group, or --columns group=NAME).",
    ),
    "source_in_same_split": _Row(
        "note",
        "{count} fakes are in the split of their source, the real face that they were made from, "
        "the first is {path!r} of {original_path!r}: where splits are drawn, give a table in which "
        "both have the same group (a column group, or --columns group=NAME), so that they stay "
        "together.",
    ),
    "same_stem": _Row(
        "note",
        "{count} validation or test images have the name of an image of an earlier split but for "
        "a number at its end, the first is {path!r}, as {original_path!r}: if they show the same "
        "person or are of one video, give a table in which they have the same group (a column "
        "group, or --columns group=NAME).",
    ),
    "storage_tells_class": _Row("error", _STORED),
    "storage_may_tell_class": _Row("warning", _STORED),
    "file_size_tells_class": _Row(
        "note",
        "In the {images}, the files' bits per pixel tell real from synthetic with AUC {auc:.3f}. "
        "Nothing in the storage of the files does, so it is the pictures' content: images of one "
        "class have finer detail.",
    ),
    "file_size_may_tell_class": _Row(
        "warning",
        "In the {images}, the files' bits per pixel tell real from synthetic with AUC {auc:.3f}: "
        "that is the pictures' content or, as {formats} files do not tell their quality, how they "
        "were compressed. Store both classes in the same way, and see by focus evaluate --run "
        "runs/NAME --equalise, what its AUC owes to it.",
    ),
    "pixels_tell_class": _Row(
        "warning",
        "Low-level statistics alone tell the class with AUC {auc:.3f}, by {causes}, and a detector "
        "can learn that instead of the face: give both classes the same processing, and see by "
        "focus evaluate --run runs/NAME --equalise, what its AUC owes to it.",
    ),
    "bad_files": _Row(
        "warning",
        "{count} files cannot be decoded and are left out, the first is the {role} {path!r} "
        "({reason}).",
    ),
    "blank_maps": _Row(
        "warning",
        "{count} human maps have one single value and count as none, the first is {path!r}.",
    ),
    "coloured_maps": _Row(
        "warning",
        "{count} human maps are in colour, of which only the luminance is used, so that what looks "
        "hottest may count less than what is around it (export them in grey), the first is "
        "{path!r}.",
    ),
    "inverted_maps": _Row(
        "warning",
        "{count} human maps are bright over most of the image and may be inverted (bright is where "
        "people looked), the first is {path!r}.",
    ),
    "faint_masks": _Row(
        "warning",
        "{count} artefact masks are nowhere half white and so count as empty (stored as 0 and 1 "
        "instead of 0 and 255?), the first is {path!r}.",
    ),
    "unmatched_maps": _Row(
        "warning",
        "{count} human maps in {folder} belong to no image, the first is {path!r}.",
    ),
    "machine_made_maps": _Row("warning", "Human maps are machine-made ({sources}): nobody looked."),
    "no_maps": _Row(
        "warning",
        "No training image has a human map (--human-maps), so the {terms} term of {run} is 0.",
    ),
    "few_images": _Row("note", "Fewer than {least} images, of which figures say little: {kinds}."),
    "unread_folders": _Row(
        "note", "Nothing was read from {count} folders below {root}: {folders}."
    ),
    "known_images": _Row(
        "warning",
        "{count} of {total} images are left out: they, or copies of them, are for training, or "
        "what the model was chosen on{by_group}.",
    ),
    "no_record": _Row(
        "warning",
        "The model lies in no run folder (with config.yaml and manifest.csv), so that images it "
        "was trained on cannot be left out: give --run, or be sure that these are new.",
    ),
    "no_comparison": _Row(
        "note",
        "{count} of {total} images that the model was trained or chosen on are no longer there, so "
        "that pictures stored anew are not compared with them.",
    ),
    "reals_of_run": _Row(
        "note",
        "No real image is given: the {count} that {run} was tested on are taken; --test-real "
        "NAME=PATH gives others.",
    ),
    "no_answers": _Row(
        "warning", "None of these images is answered in --people {people}: nothing of people."
    ),
    # Of the scores and figures.
    "calibration": _Row("warning", "{text}"),
    "no_threshold": _Row(
        "note",
        "No threshold was fixed, as that takes rows marked validation whose classes the scores "
        "tell apart: a score of 0.5 decides, of which the error rates are.",
    ),
    "scale_assumed": _Row("note", "{text}"),
    "raw_scores": _Row(
        "note", "Raw scores are shown from 0 ({low:g} in the table) to 1 ({high:g}), uncalibrated."
    ),
    "rows_left_out": _Row(
        "warning",
        "{count} of {total} rows lack the score of a detector and are in no figure: a detector "
        "that fails on hard images is flattered.",
    ),
    "generators_left_out": _Row(
        "note",
        "The {test_set} is without {names}, of which a class has fewer than two independent "
        "images.",
    ),
    "no_labels": _Row("note", "No image has a label: scores only, no results."),
    "unlabelled": _Row("note", "Images without label: {count}; they are scored and in no result."),
    "one_class": _Row(
        "warning", "There are no {missing} images, only {there} ones: no AUC is defined."
    ),
    "worse_than_guessing": _Row(
        "error",
        "Worse than guessing: real and synthetic images are ranked the wrong way round, with an "
        "AUC surely below 0.5, for {below}.{question}",
    ),
    "no_reals": _Row(
        "warning",
        "{generator} has no real images to be told from: its AUC is not defined.",
    ),
    "unused_reals": _Row(
        "note",
        "Real images that no synthetic image is told from: {count}; they are in no result.",
    ),
    "outlying_tokens": _Row(
        "warning",
        "The CAM of {share:.0%} of the images peaks on a token of outlying norm, where chance "
        "gives 0.5 %: such tokens say little of their place, so do not trust the CAMs, and take a "
        "network with registers.",
    ),
    "collapsed_cam": _Row(
        "warning",
        "The CAM has collapsed: in the {images} it peaks in the same cell in {share:.0%} of the "
        "images, whatever they show; lower --focus-weight.",
    ),
    "uncalibrated": _Row(
        "note",
        "The scores are not calibrated as probabilities: their error is {errors}, at as many real "
        "as synthetic images.",
    ),
    "known_generator": _Row("warning", "Tested as unknown, though training knew it: {names}."),
    "renamed_generator": _Row(
        "note", "Tested as known, since training knew it by another name: {names}."
    ),
    "near_generator": _Row("note", "Tested as unknown, though training knew its family: {names}."),
    "unknown_family": _Row(
        "note",
        "Not known to be near or far: {names}; no family is known of {without_family}: name "
        "generators and families in the data.",
    ),
    "comparison": _Row("note", "{text}"),
}
"""By the id of a finding: ``error`` where figures say something else than they seem to, or training
would learn something else than faces; ``warning`` where they may; ``note`` for what is good to
know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding, in one or two sentences.

    Attributes:
        severity: How bad it is; ``FINDINGS`` says what the three mean.
        text: Its words, with their values.
        id: Its name in ``FINDINGS``; "" in results that an earlier version wrote.
    """

    severity: Severity
    text: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}"


def finding(id: str, **values: Any) -> Finding:
    """Return the finding of that id, its words filled with values."""
    severity, words = FINDINGS[id]
    return Finding(severity, words.format(**values), id)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print each finding in a line, worst first."""
    for one in worst_first(findings):
        print(one)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return each finding once, errors first, else in the order in which they were made."""
    return sorted(dict.fromkeys(findings), key=lambda one: _ORDER.index(one.severity))
