"""Report what the check finds: the command ``check``, its files and its exit code.

The report is a text for the console, check.txt, check.json, copies.csv and a contact sheet.
"""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

from focus.config.data import CheckConfig
from focus.data.check.findings import CheckedData, Training, gather, is_fit, kinds, verdict
from focus.data.check.images import files_of_two_labels
from focus.data.check.shortcuts import MIN_IMAGES
from focus.data.copies import SOURCE, Copy, write_copies
from focus.data.manifest import REAL, Sample, place_of
from focus.data.overlay import NO_CAM, SheetRow, contact_sheet, strip
from focus.data.readers import refuse_inside
from focus.metrics.arrays import evenly
from focus.plotting import shortened
from focus.runtime.files import check_writable, sole_writer
from focus.tables import aligned

_SHOWN = 5  # of each list on the console
_CAUSES = 3  # of an AUC on the console
_LONGEST = 30  # characters of a generator's name in the table

_CELLS = 8
"""Pictures in a row of the sheet: images, or half as many beside themselves with their map."""
SIDE = 144
"""Pixels of the side of a picture in the sheet."""
_MAX_ROWS = 40


def check(config: CheckConfig) -> None:
    """Check the data that focus train would get with these flags; with an output, write the report.

    Raises:
        InputError: the folder cannot be written.
        SystemExit: with code 1 if training would not start, or on a finding that is an error.
    """
    if config.output is None:
        checked, *_ = _print(config)
    else:
        output = Path(config.output)
        check_writable(output)
        refuse_inside(output, (*config.test_data.values(), *config.test_real.values()))
        with sole_writer(output):
            checked, content, report = _print(config)
            _write_contact_sheet(checked, output / "contact_sheet.png")
            _write(checked, content, report, output)
        print(f"report: {output}")

    if checked.obstacle or (config.strict and not is_fit(checked)):
        raise SystemExit(1)


def _print(config: CheckConfig) -> tuple[CheckedData, dict[str, Any], str]:
    """Print the findings, the verdict first and last; return them, and check.json and check.txt."""
    layouts = StringIO()
    with redirect_stdout(layouts):
        checked = gather(config)

    head = verdict(checked)
    content = _content_of(checked)
    summary = _summary(checked, content)

    body = layouts.getvalue() + summary
    parts = [head, body, head] if body else [head]
    print(*parts, sep="\n\n")
    return checked, content, f"{head}\n\n{summary}"


def _write(checked: CheckedData, content: Mapping[str, Any], report: str, folder: Path) -> None:
    """Write check.json, check.txt and copies.csv."""
    as_json = json.dumps(content, indent=1, allow_nan=False)
    (folder / "check.json").write_text(as_json + "\n", encoding="utf-8")
    (folder / "check.txt").write_text(f"{report}\n", encoding="utf-8")
    write_copies(checked.copies, folder, checked.dropped, checked.pairs)


def _content_of(checked: CheckedData) -> dict[str, Any]:
    """Return the content of check.json, which ``docs/formats.md`` describes."""
    manifest = checked.manifest
    images = checked.decoded.manifest if checked.decoded else manifest
    bad_images = {file.path for file in checked.bad if file.role == "image"}
    masks = {sample.mask_path for sample in manifest} - {None}
    labels = [sample.label for sample in manifest.split("train")]
    train = Counter(label for label in labels if label is not None)
    copy_kinds = Counter(copy.kind for copy in checked.copies)
    without = checked.without_copies
    return {
        "version": 3,
        "source": manifest.source,
        "fit": is_fit(checked),
        "findings": [asdict(finding) for finding in checked.findings],
        **_trainable(checked.training),
        "n_images": len(manifest),
        "kinds": [
            {
                "split": split,
                "label": label,
                "generator": generator,
                "images": len(rows),
                "with_map": sum(manifest[row].human_map is not None for row in rows),
                "unreadable": sum(manifest[row].path in bad_images for row in rows),
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
    bad_images = {file.path for file in checked.bad if file.role == "image"}
    looks = [checked.looks[path] for path in paths if path not in bad_images]
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


def _summary(checked: CheckedData, content: Mapping[str, Any]) -> str:
    """Return what the console shows of check.json, below the verdict."""
    lines: list[str] = []
    if checked.manifest:
        lines += [*_table(content["kinds"]), "", *_file_lines(checked, content)]
        lines += [*_copy_lines(checked, content["copies"]), *_shortcut_lines(checked)]

    without = checked.without_copies
    if without is not None:
        if checked.training.obstacle:
            lines.append(f"training would not start: {checked.training.obstacle}")
        if without.obstacle:
            outcome = f"not start: {without.obstacle}"
        else:
            table = shlex.quote(without.path)
            outcome = f"start: give focus train --data {table} instead of the data and test flags"
        lines.append(f"without copies, {without.n_images} images, it would {outcome}")

    # Names may hold bytes that no console shows.
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


def _table(kinds_of_images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of the kinds in check.json."""
    rows = [("split", "class", "generator", "images", "with map", "size", "format", "mode")]
    short_names = shortened((kind["generator"] for kind in kinds_of_images), _LONGEST)
    for kind in kinds_of_images:
        rows.append(
            (
                kind["split"] or "(none)",
                kind["label"],
                short_names[kind["generator"]],
                str(kind["images"]),
                str(kind["with_map"]),
                _commonest(kind["sizes"]),
                _commonest(kind["formats"]),
                _commonest(kind["modes"]),
            )
        )
    return aligned(rows, "<<<>><<<")


def _commonest(counts: Mapping[str, int]) -> str:
    """Return the first value, which is the commonest, and the number of others: ``PNG +2``."""
    value = next(iter(counts), "")
    return f"{value} +{len(counts) - 1}" if len(counts) > 1 else value


def _file_lines(checked: CheckedData, content: Mapping[str, Any]) -> list[str]:
    lines = []
    if content["train_share_real"] is not None:
        lines.append(f"balance: {100 * content['train_share_real']:.0f} % of train is real")
    if content["maps"]["maps"] or checked.n_unmatched:
        counts = [
            f"{count} {name.replace('_', ' ')}" for name, count in content["maps"].items() if count
        ]
        lines.append(f"human maps: {', '.join(counts)}")
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
    for properties, result in (
        ("the files' storage alone", checked.storage),
        ("low-level statistics alone", checked.pixels),
    ):
        if result is None:
            lines.append(
                f"shortcuts: {properties} not audited, fewer than {MIN_IMAGES} images of a class "
                "are to train with"
            )
            continue
        low, high = result.interval
        lines.append(
            f"shortcuts: {properties} tell the class with AUC {result.auc:.3f} "
            f"({100 * result.level:.0f} % interval {low:.3f} to {high:.3f})"
        )
        lines += [f"  {cause}" for cause in result.causes[:_CAUSES]]
    return lines


def _first(lines: Sequence[str]) -> list[str]:
    """Indent the first lines of a list, and count the others."""
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"  {line}" for line in (*lines[:_SHOWN], *more)]


def _write_contact_sheet(checked: CheckedData, path: Path) -> None:
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
