"""The findings as JSON, as leaks.csv and as a text for the console."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from focus.data.check.findings import Findings
from focus.data.check.leaks import write_leaks
from focus.data.check.shortcuts import MIN_IMAGES, Audit, describe
from focus.data.manifest import LABEL_NAMES, SYNTHETIC, Sample
from focus.metrics import LEVEL
from focus.plotting import shortened

VERSION = 1

_SHOWN = 5  # of each list on the console
_LONGEST = 30  # characters of a generator's name in the table
_WARN_FROM = 0.55
# Of what a table's label tells: (field, what predicts it, what to do).
_AUDITS = (
    ("metadata", "the files' metadata alone", "store both classes in the same way"),
    ("pixels", "low-level statistics alone", "give both classes the same processing"),
)


def write(found: Findings, folder: Path) -> str:
    """check.json, check.txt and leaks.csv; returns the text of the second, for the console."""
    content = _content(found)
    said = _text(found, content)
    written = json.dumps(content, indent=1, allow_nan=False)
    (folder / "check.json").write_text(written + "\n", encoding="utf-8")
    (folder / "check.txt").write_text(said + "\n", encoding="utf-8")
    write_leaks(found.manifest, found.leaks, folder / "leaks.csv")
    return said


def _content(found: Findings) -> dict[str, Any]:
    """The content of check.json, which ``docs/formats.md`` describes."""
    readable = [look for look in found.looks if not look.error]
    n_real, n_synthetic = (
        sum(s.label == label and s.split == "train" for s in found.manifest) for label in (0, 1)
    )
    n_leaked = len({leak.row for leak in found.leaks})
    return {
        "version": VERSION,
        "source": found.manifest.source,
        "trainable": not found.obstacle,
        "obstacle": found.obstacle or None,
        "n_images": len(found.manifest),
        "kinds": _kinds(found),
        "train_share_real": n_real / (n_real + n_synthetic) if n_real + n_synthetic else None,
        "sizes": _counts(f"{look.width}x{look.height}" for look in readable),
        "formats": _counts(look.format for look in readable),
        "modes": _counts(look.mode for look in readable),
        "maps": _maps(found),
        "masks": {
            "masks": len({s.mask_path for s in found.manifest if s.mask_path is not None}),
            "faint": len(found.faint_masks),
        },
        "contradictory": [list(paths) for paths in _contradictory(found)],
        "bad_files": [asdict(file) for file in found.bad],
        "leaks": {
            "images": n_leaked,
            **{
                kind.replace(" ", "_"): sum(leak.kind == kind for leak in found.leaks)
                for kind in ("same file", "same picture")
            },
            "between": _counts(
                f"{found.manifest[leak.row].split}-{found.manifest[leak.other].split}"
                for leak in found.leaks
            ),
        },
        "shortcuts": {name: _audit(getattr(found, name)) for name, _, _ in _AUDITS},
        "without_leaks": None
        if found.kept is None
        else {
            "path": str(found.kept.path),
            "n_images": found.kept.n_images,
            "trainable": not found.kept.obstacle,
            "obstacle": found.kept.obstacle or None,
        },
    }


def _text(found: Findings, content: Mapping[str, Any]) -> str:
    """What the console shows. content: of check.json."""
    lines = [*_table(content["kinds"]), ""] if found.manifest else []
    if found.manifest:
        lines += [*_file_lines(found, content), *_leak_lines(found, content["leaks"])]
        lines += [*_shortcut_lines(found), ""]
    lines.append(
        f"training would not start: {found.obstacle}" if found.obstacle else "training would start"
    )
    if found.kept is not None:
        verdict = (
            f"not start: {found.kept.obstacle}"
            if found.kept.obstacle
            else f"start: give train.py --data {found.kept.path} instead of the data and test flags"
        )
        lines.append(f"without leaks, {found.kept.n_images} images, it would {verdict}")
    # Names may hold bytes that no console shows.
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


def _kinds(found: Findings) -> list[dict[str, Any]]:
    """A row for each split, class and generator."""
    kinds: dict[tuple[int, str, str], list[int]] = {}
    order = ("train", "validation", "test", "")
    for row, sample in enumerate(found.manifest):
        generator = sample.generator if sample.label == SYNTHETIC else ""
        kinds.setdefault((order.index(sample.split), _name(sample), generator), []).append(row)
    rows = []
    for (split, label, generator), members in sorted(kinds.items()):
        sizes = [found.looks[row] for row in members if not found.looks[row].error]
        rows.append(
            {
                "split": order[split],
                "label": label,
                "generator": generator,
                "images": len(members),
                "with_map": sum(found.manifest[row].map_path is not None for row in members),
                "unreadable": len(members) - len(sizes),
                "sizes": _counts(f"{look.width}x{look.height}" for look in sizes),
                "formats": _counts(look.format for look in sizes),
                "modes": _counts(look.mode for look in sizes),
            }
        )
    return rows


def _name(sample: Sample) -> str:
    return "unlabelled" if sample.label is None else LABEL_NAMES[sample.label]


def _maps(found: Findings) -> dict[str, int]:
    """How many human maps are odd in which way, and how many images have none."""
    sizes = {
        sample.map_path: (look.width, look.height)
        for sample, look in zip(found.manifest, found.looks, strict=True)
        if sample.map_path is not None
    }
    return {
        "maps": len(found.maps),
        "images_without": sum(sample.map_path is None for sample in found.manifest),
        "unreadable": sum(not m.readable for m in found.maps.values()),
        "blank": sum(m.blank for m in found.maps.values()),
        "inverted": sum(m.inverted for m in found.maps.values()),
        "of_another_size": sum(
            m.readable and sizes[path] != (m.width, m.height) for path, m in found.maps.items()
        ),
        "unmatched": found.n_unmatched,
    }


def _contradictory(found: Findings) -> list[tuple[str, ...]]:
    """The files, apart from their names the same, that are real images and fakes at once."""
    alike: dict[bytes, dict[str, int | None]] = {}
    for sample, look in zip(found.manifest, found.looks, strict=True):
        if not look.error and sample.label is not None:
            alike.setdefault(look.digest, {})[sample.path] = sample.label
    return [tuple(labels) for labels in alike.values() if len({*labels.values()}) > 1]


def _audit(result: Audit | None) -> dict[str, Any] | None:
    if result is None:
        return None
    values = asdict(result)
    low, high = values.pop("low"), values.pop("high")
    return {"auc": values.pop("auc"), "interval": [low, high], "level": LEVEL, **values}


def _counts(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _table(kinds: Sequence[dict[str, Any]]) -> list[str]:
    rows = [("split", "class", "generator", "images", "with map", "size", "format", "mode")]
    names = shortened((kind["generator"] for kind in kinds), _LONGEST)
    for kind in kinds:
        rows.append(
            (
                kind["split"] or "(none)",
                kind["label"],
                names[kind["generator"]],
                str(kind["images"]),
                str(kind["with_map"]),
                *(_commonest(kind[name]) for name in ("sizes", "formats", "modes")),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at in (3, 4) else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _commonest(counts: dict[str, int]) -> str:
    first = next(iter(counts), "")
    return f"{first} +{len(counts) - 1}" if len(counts) > 1 else first


def _file_lines(found: Findings, content: Mapping[str, Any]) -> list[str]:
    lines = []
    if content["train_share_real"] is not None:
        lines.append(f"balance: {100 * content['train_share_real']:.0f} % of train is real")
    if found.maps or found.n_unmatched:
        odd = [f"{n} {k.replace('_', ' ')}" for k, n in content["maps"].items() if n]
        lines.append(f"human maps: {', '.join(odd)}")
    if coloured := [path for path, look in found.maps.items() if look.coloured]:
        lines.append(
            f"human maps: {len(coloured)} are in colour, of which only the luminance is used, the "
            f"first is {coloured[0]!r}: export them in grey"
        )
    if found.faint_masks:
        lines.append(
            f"artefact masks: {len(found.faint_masks)} are nowhere half white and count as empty, "
            f"the first is {found.faint_masks[0]!r}"
        )
    if contradictory := content["contradictory"]:
        lines.append(f"the same file as real and as synthetic: {len(contradictory)}")
        lines += [f"  {', '.join(map(repr, paths))}" for paths in contradictory[:_SHOWN]]
        lines += _more(len(contradictory))
    lines.append(f"unreadable files: {len(found.bad)}")
    lines += [f"  {file.role} {file.path!r}: {file.reason}" for file in found.bad[:_SHOWN]]
    return lines + _more(len(found.bad))


def _leak_lines(found: Findings, counts: Mapping[str, Any]) -> list[str]:
    if not found.leaks:
        return ["leaks: none, no picture is in two splits"]
    between = ", ".join(f"{n} {pair}" for pair, n in counts["between"].items())
    lines = [
        f"leaks: {counts['images']} images are in a later split too ({between}; "
        f"{counts['same_file']} same file, {counts['same_picture']} same picture)"
        + ("" if found.kept else ": --drop-leaks leaves them out")
    ]
    for leak in found.leaks[:_SHOWN]:
        one, other = found.manifest[leak.row], found.manifest[leak.other]
        lines.append(f"  {leak.kind}: {one.split} {one.path!r}, {other.split} {other.path!r}")
    return lines + _more(len(found.leaks))


def _shortcut_lines(found: Findings) -> list[str]:
    lines = []
    for name, what, remedy in _AUDITS:
        result: Audit | None = getattr(found, name)
        if result is None:
            lines.append(f"shortcuts: {what} not audited, fewer than {MIN_IMAGES} images a class")
            continue
        lines.append(
            f"shortcuts: {what} tell the class with AUC {result.auc:.3f} "
            f"({100 * LEVEL:.0f} % interval {result.low:.3f} to {result.high:.3f})"
        )
        lines += [f"  {describe(cause)}" for cause in result.causes]
        if result.low > _WARN_FROM:
            lines.append(
                f"warning: a detector trained on these images can learn that instead of the face: "
                f"{remedy}"
            )
    return lines


def _more(n: int) -> list[str]:
    return [f"  and {n - _SHOWN} more"] if n > _SHOWN else []
