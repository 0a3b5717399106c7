"""The findings as check.json, as leaks.csv and as a text for the console."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from focus.data.check.findings import Findings
from focus.data.check.leaks import write_leaks
from focus.data.check.shortcuts import LEVEL, MIN_IMAGES, Audit
from focus.data.manifest import LABEL_NAMES, SYNTHETIC
from focus.plotting import shortened

VERSION = 1

_SHOWN = 5  # of each list on the console
_LONGEST = 30  # characters of a generator's name in the table
_WARN_FROM = 0.55
_SPLITS = ("train", "validation", "test", "")
# Of what a table's label tells: (field, what predicts it, what to do).
_AUDITS = (
    ("metadata", "the files' metadata alone", "store both classes in the same way"),
    ("pixels", "low-level statistics alone", "give both classes the same processing"),
)


def write(found: Findings, folder: Path) -> str:
    """Write check.json, check.txt and leaks.csv; return the text of the second."""
    content = _content(found)
    text = _text(found, content)
    as_json = json.dumps(content, indent=1, allow_nan=False)
    (folder / "check.json").write_text(as_json + "\n", encoding="utf-8")
    (folder / "check.txt").write_text(text + "\n", encoding="utf-8")
    write_leaks(found.manifest, found.leaks, folder / "leaks.csv")
    return text


def _content(found: Findings) -> dict[str, Any]:
    """Return the content of check.json, which ``docs/formats.md`` describes."""
    kinds = _kinds(found)
    train = Counter[str]()
    for kind in kinds:
        train[kind["label"]] += kind["images"] * (kind["split"] == "train")
    n_labelled = sum(train[label] for label in LABEL_NAMES)
    leak_kinds = Counter(leak.kind for leak in found.leaks)
    return {
        "version": VERSION,
        "source": found.manifest.source,
        "trainable": not found.obstacle,
        "obstacle": found.obstacle or None,
        "n_images": len(found.manifest),
        "kinds": kinds,
        "train_share_real": train["real"] / n_labelled if n_labelled else None,
        **_appearances(found, range(len(found.looks))),
        "maps": _maps(found),
        "masks": {
            "masks": len(found.masks),
            "faint": sum(mask.faint for mask in found.masks.values()),
        },
        "contradictory": _contradictory(found),
        "bad_files": [asdict(file) for file in found.bad],
        "leaks": {
            "images": len({leak.row for leak in found.leaks}),
            "same_file": leak_kinds["same file"],
            "same_picture": leak_kinds["same picture"],
            "between": _counts(
                f"{found.manifest[leak.row].split}-{found.manifest[leak.other].split}"
                for leak in found.leaks
            ),
        },
        "shortcuts": {name: _audit(getattr(found, name)) for name, _, _ in _AUDITS},
        "without_leaks": found.kept
        and {
            "path": str(found.kept.path),
            "n_images": found.kept.n_images,
            "trainable": not found.kept.obstacle,
            "obstacle": found.kept.obstacle or None,
        },
    }


def _kinds(found: Findings) -> list[dict[str, Any]]:
    """Return an entry for each split, class and generator."""
    kinds: dict[tuple[int, str, str], list[int]] = {}
    for row, sample in enumerate(found.manifest):
        label = "unlabelled" if sample.label is None else LABEL_NAMES[sample.label]
        generator = sample.generator if sample.label == SYNTHETIC else ""
        kinds.setdefault((_SPLITS.index(sample.split), label, generator), []).append(row)
    return [
        {
            "split": _SPLITS[split],
            "label": label,
            "generator": generator,
            "images": len(rows),
            "with_map": sum(found.manifest[row].map_path is not None for row in rows),
            "unreadable": sum(bool(found.looks[row].error) for row in rows),
            **_appearances(found, rows),
        }
        for (split, label, generator), rows in sorted(kinds.items())
    ]


def _appearances(found: Findings, rows: Sequence[int]) -> dict[str, dict[str, int]]:
    """Count the sizes, formats and modes of the images that can be decoded."""
    looks = [found.looks[row] for row in rows if not found.looks[row].error]
    return {
        "sizes": _counts(f"{look.width}x{look.height}" for look in looks),
        "formats": _counts(look.format for look in looks),
        "modes": _counts(look.mode for look in looks),
    }


def _maps(found: Findings) -> dict[str, int]:
    """Count the human maps that are odd in some way, and the images that have none."""
    maps = found.maps.values()
    sizes = {
        sample.map_path: (look.width, look.height)
        for sample, look in zip(found.manifest, found.looks, strict=True)
    }
    return {
        "maps": len(maps),
        "images_without": sum(sample.map_path is None for sample in found.manifest),
        "unreadable": sum(bool(m.error) for m in maps),
        "blank": sum(m.blank for m in maps),
        "inverted": sum(m.inverted for m in maps),
        "of_another_size": sum(
            not m.error and sizes[path] != (m.width, m.height) for path, m in found.maps.items()
        ),
        "unmatched": found.n_unmatched,
    }


def _contradictory(found: Findings) -> list[list[str]]:
    """Return the paths of each file that is given as a real image and as a fake."""
    alike: dict[bytes, dict[str, int | None]] = {}
    for sample, look in zip(found.manifest, found.looks, strict=True):
        if not look.error and sample.label is not None:
            alike.setdefault(look.digest, {})[sample.path] = sample.label
    return [list(labels) for labels in alike.values() if len({*labels.values()}) > 1]


def _audit(result: Audit | None) -> dict[str, Any] | None:
    if result is None:
        return None
    values = asdict(result)
    low, high = values.pop("low"), values.pop("high")
    return {"auc": values.pop("auc"), "interval": [low, high], "level": LEVEL, **values}


def _counts(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _text(found: Findings, content: Mapping[str, Any]) -> str:
    """Return what the console shows of ``content`` of check.json."""
    lines: list[str] = []
    if found.manifest:
        lines += [*_table(content["kinds"]), "", *_file_lines(found, content)]
        lines += [*_leak_lines(found, content["leaks"]), *_shortcut_lines(found), ""]
    obstacle = found.obstacle
    lines.append(f"training would not start: {obstacle}" if obstacle else "training would start")
    if kept := found.kept:
        verdict = (
            f"not start: {kept.obstacle}"
            if kept.obstacle
            else f"start: give train.py --data {kept.path} instead of the data and test flags"
        )
        lines.append(f"without leaks, {kept.n_images} images, it would {verdict}")
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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [f"{{:{'>' if at in (3, 4) else '<'}{width}}}" for at, width in enumerate(widths)]
    return ["  ".join(aligned).format(*row).rstrip() for row in rows]


def _file_lines(found: Findings, content: Mapping[str, Any]) -> list[str]:
    lines = []
    if content["train_share_real"] is not None:
        lines.append(f"balance: {100 * content['train_share_real']:.0f} % of train is real")
    if found.maps or found.n_unmatched:
        odd = [f"{n} {name.replace('_', ' ')}" for name, n in content["maps"].items() if n]
        lines.append(f"human maps: {', '.join(odd)}")
    if coloured := [path for path, look in found.maps.items() if look.coloured]:
        lines.append(
            f"human maps: {len(coloured)} are in colour, of which only the luminance is used, the "
            f"first is {coloured[0]!r}: export them in grey"
        )
    if faint := [path for path, look in found.masks.items() if look.faint]:
        lines.append(
            f"artefact masks: {len(faint)} are nowhere half white and count as empty, "
            f"the first is {faint[0]!r}"
        )
    if both := content["contradictory"]:
        lines.append(f"the same file as real and as synthetic: {len(both)}")
        lines += _first([", ".join(map(repr, paths)) for paths in both])
    lines.append(f"unreadable files: {len(found.bad)}")
    return lines + _first([f"{file.role} {file.path!r}: {file.reason}" for file in found.bad])


def _leak_lines(found: Findings, counts: Mapping[str, Any]) -> list[str]:
    if not found.leaks:
        return ["leaks: none, no picture is in two splits"]
    between = ", ".join(f"{n} {pair}" for pair, n in counts["between"].items())
    lines = []
    for leak in found.leaks:
        one, other = found.manifest[leak.row], found.manifest[leak.other]
        lines.append(f"{leak.kind}: {one.split} {one.path!r}, {other.split} {other.path!r}")
    return [
        f"leaks: {counts['images']} images are in a later split too ({between}; "
        f"{counts['same_file']} same file, {counts['same_picture']} same picture)"
        + ("" if found.kept else ": --drop-leaks leaves them out"),
        *_first(lines),
    ]


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
        lines += [f"  {cause}" for cause in result.causes]
        if result.low > _WARN_FROM:
            lines.append(
                f"warning: a detector trained on these images can learn that instead of the face: "
                f"{remedy}"
            )
    return lines


def _first(lines: Sequence[str]) -> list[str]:
    """Indent the first lines of a list, and count the others."""
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"  {line}" for line in (*lines[:_SHOWN], *more)]
