"""The findings as check.json, as copies.csv, as a text for the console and as a contact sheet."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from focus.data.check.findings import CheckedData, Training, is_fit, kinds
from focus.data.check.images import files_of_two_labels
from focus.data.check.shortcuts import MIN_IMAGES
from focus.data.copies import SOURCE, Copy, write_copies
from focus.data.manifest import REAL, Sample, place_of
from focus.data.overlay import NO_CAM, SheetRow, contact_sheet, strip
from focus.metrics.arrays import evenly
from focus.plotting import shortened
from focus.tables import aligned

_SHOWN, _CAUSES = 5, 3  # of each list, and of the causes of an AUC, on the console
_LONGEST = 30  # characters of a generator's name in the table

_CELLS = 8
"""Pictures in a row of the sheet: images, or half as many beside themselves with their map."""
SIDE = 144
"""Pixels of the side of a picture in the sheet."""
_MAX_ROWS = 40


def write(checked: CheckedData, content: Mapping[str, Any], shown: str, folder: Path) -> None:
    """Write check.json, check.txt and copies.csv."""
    as_json = json.dumps(content, indent=1, allow_nan=False)
    (folder / "check.json").write_text(as_json + "\n", encoding="utf-8")
    (folder / "check.txt").write_text(f"{shown}\n", encoding="utf-8")
    write_copies(checked.copies, folder, checked.dropped, checked.pairs)


def content_of(checked: CheckedData) -> dict[str, Any]:
    """Return the content of check.json, which ``docs/formats.md`` describes."""
    manifest = checked.manifest
    images = checked.decoded.manifest if checked.decoded else manifest
    bad = {file.path for file in checked.bad if file.role == "image"}
    masks = {sample.mask_path for sample in manifest} - {None}
    train = Counter(s.label for s in manifest.split("train") if s.label is not None)
    copy_kinds = Counter(copy.kind for copy in checked.copies)
    without = checked.without_copies
    return {
        "version": 3,
        "source": manifest.source,
        "fit": is_fit(checked),
        "findings": [asdict(one) for one in checked.findings],
        **_trainable(checked.training),
        "n_images": len(manifest),
        "kinds": [
            {
                "split": split,
                "label": label,
                "generator": generator,
                "images": len(rows),
                "with_map": sum(manifest[row].human_map is not None for row in rows),
                "unreadable": sum(manifest[row].path in bad for row in rows),
                **_appearances(checked, (manifest[row].path for row in rows)),
            }
            for (split, label, generator), rows in kinds(manifest).items()
        ],
        "train_share_real": train[REAL] / train.total() if train else None,
        **_appearances(checked, (sample.path for sample in manifest)),
        "maps": _maps(checked),
        "masks": {"masks": len(masks), "faint": len(checked.odd("faint"))},
        "contradictory": files_of_two_labels(images),
        "bad_files": [asdict(file) for file in checked.bad],
        "copies": {
            "images": len(checked.copies),
            "same_file": copy_kinds["same file"],
            "same_picture": copy_kinds["same picture"],
            "mirrored_picture": copy_kinds["mirrored picture"],
            "fake_and_source": copy_kinds[SOURCE],
            "between": _counts(
                f"{copy.original.split}-{copy.sample.split}" for copy in checked.copies
            ),
        },
        "shortcuts": {
            "storage": checked.storage and asdict(checked.storage),
            "pixels": checked.pixels and asdict(checked.pixels),
        },
        "without_copies": without
        and {"path": without.path, "n_images": without.n_images, **_trainable(without)},
    }


def _trainable(training: Training) -> dict[str, bool | str | None]:
    return {"trainable": not training.obstacle, "obstacle": training.obstacle or None}


def _appearances(checked: CheckedData, paths: Iterable[str]) -> dict[str, dict[str, int]]:
    """Count the sizes, formats and modes of the images that can be decoded."""
    bad = {file.path for file in checked.bad if file.role == "image"}
    looks = [checked.looks[path] for path in paths if path not in bad]
    return {
        "sizes": _counts(f"{look.width}x{look.height}" for look in looks),
        "formats": _counts(str(look.storage["file format"]) for look in looks),
        "modes": _counts(str(look.storage["colour mode"]) for look in looks),
    }


def _maps(checked: CheckedData) -> dict[str, int]:
    """Count the human maps that are odd in some way, and the images that have none."""
    size_of: dict[str, tuple[int, int]] = {}
    for sample in checked.manifest:
        if sample.human_map is not None:
            header = checked.looks[sample.path]
            size_of[sample.human_map] = header.width, header.height
    sizes = checked.map_sizes
    return {
        "maps": len(size_of),
        "images_without": sum(sample.human_map is None for sample in checked.manifest),
        "unreadable": sum(file.role == "map" for file in checked.bad),
        "blank": len(checked.odd("blank")),
        "inverted": len(checked.odd("inverted")),
        "of_another_size": sum(size_of[path] != size for path, size in sizes.items()),
        "unmatched": checked.n_unmatched,
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def text(checked: CheckedData, content: Mapping[str, Any]) -> str:
    """Return what the console shows of check.json, below the verdict."""
    lines: list[str] = []
    if checked.manifest:
        lines += [*_table(content["kinds"]), "", *_file_lines(checked, content)]
        lines += [*_copy_lines(checked, content["copies"]), *_shortcut_lines(checked)]
    if without := checked.without_copies:
        if obstacle := checked.training.obstacle:
            lines.append(f"training would not start: {obstacle}")
        table = shlex.quote(without.path)
        verdict = (
            f"not start: {without.obstacle}"
            if without.obstacle
            else f"start: give focus train --data {table} instead of the data and test flags"
        )
        lines.append(f"without copies, {without.n_images} images, it would {verdict}")
    # Names may hold bytes that no console shows.
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


def _table(kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [("split", "class", "generator", "images", "with map", "size", "format", "mode")]
    names = shortened((kind["generator"] for kind in kinds), _LONGEST)
    for kind in kinds:
        counts = [kind[name] for name in ("sizes", "formats", "modes")]
        commonest = [next(iter(c), "") + (f" +{len(c) - 1}" if len(c) > 1 else "") for c in counts]
        name, n, n_mapped = names[kind["generator"]], str(kind["images"]), str(kind["with_map"])
        rows.append((kind["split"] or "(none)", kind["label"], name, n, n_mapped, *commonest))
    return aligned(rows, "<<<>><<<")


def _file_lines(checked: CheckedData, content: Mapping[str, Any]) -> list[str]:
    lines = []
    if content["train_share_real"] is not None:
        lines.append(f"balance: {100 * content['train_share_real']:.0f} % of train is real")
    if content["maps"]["maps"] or checked.n_unmatched:
        odd = [f"{n} {name.replace('_', ' ')}" for name, n in content["maps"].items() if n]
        lines.append(f"human maps: {', '.join(odd)}")
    if pairs := content["contradictory"]:
        lines.append(f"the same file as real and as synthetic: {len(pairs)}")
        lines += _first([", ".join(map(repr, paths)) for paths in pairs])
    lines.append(f"unreadable files: {len(checked.bad)}")
    return lines + _first([f"{file.role} {file.place!r}: {file.reason}" for file in checked.bad])


def _copy_lines(checked: CheckedData, counts: Mapping[str, Any]) -> list[str]:
    if not checked.copies:
        return ["copies: none, no picture is in two splits"]
    between = ", ".join(f"{n} {pair}" for pair, n in counts["between"].items())
    return [
        f"copies: {counts['images']} images show a picture of an earlier split ({between}; "
        f"{counts['same_file']} same file, {counts['same_picture']} same picture, "
        f"{counts['mirrored_picture']} mirrored picture, {counts['fake_and_source']} {SOURCE})",
        *_first([_in_words(copy) for copy in checked.copies]),
    ]


def _in_words(copy: Copy) -> str:
    sample, original = copy.sample, copy.original
    return (
        f"{copy.kind}: {sample.split} {place_of(sample)!r}, {original.split} {place_of(original)!r}"
    )


def _shortcut_lines(checked: CheckedData) -> list[str]:
    lines = []
    for what, result in (
        ("the files' storage alone", checked.storage),
        ("low-level statistics alone", checked.pixels),
    ):
        if result is None:
            lines.append(
                f"shortcuts: {what} not audited, fewer than {MIN_IMAGES} images of a class are to "
                "train with"
            )
            continue
        low, high = result.interval
        lines.append(
            f"shortcuts: {what} tell the class with AUC {result.auc:.3f} "
            f"({100 * result.level:.0f} % interval {low:.3f} to {high:.3f})"
        )
        lines += [f"  {cause}" for cause in result.causes[:_CAUSES]]
    return lines


def _first(lines: Sequence[str]) -> list[str]:
    """Indent the first lines of a list, and count the others."""
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"  {line}" for line in (*lines[:_SHOWN], *more)]


def write_contact_sheet(checked: CheckedData, path: Path) -> None:
    """Write a PNG with images of each split, class and generator, none if there are no images.

    At most _MAX_ROWS kinds are shown. Of a kind that has human maps, images with one are shown.
    """
    rows_of_kind = kinds(checked.manifest)
    sheet_rows = []
    for (split, label, generator), rows in list(rows_of_kind.items())[:_MAX_ROWS]:
        samples = _readable(checked, rows)
        with_map = [sample for sample in samples if sample.human_map]
        candidates, most = (with_map, _CELLS // 2) if with_map else (samples, _CELLS)

        # At even steps, as neighbours are often alike.
        shown = [candidates[number] for number in evenly(len(candidates), most)]
        if shown:
            cells = [(strip(sample, NO_CAM, SIDE), "", "black") for sample in shown]
            note = f"{split or 'no split'}, {len(samples)}"
            sheet_rows.append(SheetRow(generator or label, note, cells))
    if not sheet_rows:
        return

    title = "Images by split and class"
    if checked.map_sizes:
        title += "; beside it the human map over it, where there are any"
    if len(rows_of_kind) > _MAX_ROWS:
        title += f"; {len(rows_of_kind) - _MAX_ROWS} more generators are not shown"
    contact_sheet(path, [title], sheet_rows, SIDE)


def _readable(checked: CheckedData, rows: Iterable[int]) -> list[Sample]:
    """Return the images in these rows that can be decoded, without maps that cannot."""
    unreadable = {file.path for file in checked.bad}
    samples = []
    for row in rows:
        sample = checked.manifest[row]
        if sample.path in unreadable:
            continue
        if sample.human_map in unreadable:
            sample = replace(sample, human_map=None)
        samples.append(sample)
    return samples
