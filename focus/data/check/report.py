"""The findings as check.json, as leaks.csv and as a text for the console."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from focus.data.check.findings import Findings, Training, kinds
from focus.data.check.leaks import PAIR, write_leaks
from focus.data.check.shortcuts import MIN_IMAGES
from focus.data.check.verdict import contradictory, is_fit, judged
from focus.data.manifest import REAL, place_of
from focus.plotting import shortened

_SHOWN, _CAUSES = 5, 3  # of each list, and of the causes of an AUC, on the console
_LONGEST = 30  # characters of a generator's name in the table


def write(found: Findings, content: Mapping[str, Any], shown: str, folder: Path) -> None:
    """Write check.json, check.txt and leaks.csv."""
    as_json = json.dumps(content, indent=1, allow_nan=False)
    (folder / "check.json").write_text(as_json + "\n", encoding="utf-8")
    (folder / "check.txt").write_text(f"{shown}\n", encoding="utf-8")
    write_leaks(found.manifest, [*found.leaks, *found.pairs], folder / "leaks.csv")


def content_of(found: Findings) -> dict[str, Any]:
    """Return the content of check.json, which ``docs/formats.md`` describes."""
    manifest = found.manifest
    train = Counter(s.label for s in manifest.split("train") if s.label is not None)
    leak_kinds = Counter(leak.kind for leak in found.leaks)
    without = found.without_leaks
    return {
        "version": 2,
        "source": manifest.source,
        "fit": is_fit(found),
        "findings": [asdict(each) for each in judged(found)],
        **_trainable(found.training),
        "n_images": len(manifest),
        "kinds": [
            {
                "split": split,
                "label": label,
                "generator": generator,
                "images": len(rows),
                "with_map": sum(manifest[row].human_map is not None for row in rows),
                "unreadable": sum(bool(found.looks[row].error) for row in rows),
                **_appearances(found, rows),
            }
            for (split, label, generator), rows in kinds(manifest).items()
        ],
        "train_share_real": train[REAL] / train.total() if train else None,
        **_appearances(found, range(len(found.looks))),
        "maps": _maps(found),
        "masks": {"masks": len(found.masks), "faint": len(found.odd("faint"))},
        "contradictory": contradictory(found),
        "bad_files": [asdict(file) for file in found.bad],
        "leaks": {
            "images": len({leak.row for leak in found.leaks}),
            "same_file": leak_kinds["same file"],
            "same_picture": leak_kinds["same picture"],
            "fake_and_source": leak_kinds[PAIR],
            "between": _counts(
                f"{manifest[leak.row].split}-{manifest[leak.other].split}" for leak in found.leaks
            ),
        },
        "shortcuts": {
            "metadata": found.metadata and asdict(found.metadata),
            "pixels": found.pixels and asdict(found.pixels),
        },
        "without_leaks": without
        and {"path": without.path, "n_images": without.n_images, **_trainable(without)},
    }


def _trainable(training: Training) -> dict[str, bool | str | None]:
    return {"trainable": not training.obstacle, "obstacle": training.obstacle or None}


def _appearances(found: Findings, rows: Iterable[int]) -> dict[str, dict[str, int]]:
    """Count the sizes, formats and modes of the images that can be decoded."""
    looks = [found.looks[row] for row in rows if not found.looks[row].error]
    return {
        "sizes": _counts(f"{look.width}x{look.height}" for look in looks),
        "formats": _counts(str(look.metadata["file format"]) for look in looks),
        "modes": _counts(str(look.metadata["colour mode"]) for look in looks),
    }


def _maps(found: Findings) -> dict[str, int]:
    """Count the human maps that are odd in some way, and the images that have none."""
    size_of = {
        sample.human_map: (look.width, look.height)
        for sample, look in zip(found.manifest, found.looks, strict=True)
    }
    bad = {file.path for file in found.bad}
    sizes = {path: size for path, (_, size) in found.maps.items() if path not in bad}
    return {
        "maps": len(found.maps),
        "images_without": sum(sample.human_map is None for sample in found.manifest),
        "unreadable": len(found.maps) - len(sizes),
        "blank": len(found.odd("blank")),
        "inverted": len(found.odd("inverted")),
        "of_another_size": sum(size_of[path] != size for path, size in sizes.items()),
        "unmatched": found.n_unmatched,
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def text(found: Findings, content: Mapping[str, Any]) -> str:
    """Return what the console shows of check.json, below the verdict."""
    lines: list[str] = []
    if found.manifest:
        lines += [*_table(content["kinds"]), "", *_file_lines(found, content)]
        lines += [*_leak_lines(found, content["leaks"]), *_shortcut_lines(found)]
    if without := found.without_leaks:
        if obstacle := found.training.obstacle:
            lines.append(f"training would not start: {obstacle}")
        table = shlex.quote(without.path)
        verdict = (
            f"not start: {without.obstacle}"
            if without.obstacle
            else f"start: give focus train --data {table} instead of the data and test flags"
        )
        lines.append(f"without leaks, {without.n_images} images, it would {verdict}")
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
    if pairs := content["contradictory"]:
        lines.append(f"the same file as real and as synthetic: {len(pairs)}")
        lines += _first([", ".join(map(repr, paths)) for paths in pairs])
    lines.append(f"unreadable files: {len(found.bad)}")
    return lines + _first([f"{file.role} {file.place!r}: {file.reason}" for file in found.bad])


def _leak_lines(found: Findings, counts: Mapping[str, Any]) -> list[str]:
    if not found.leaks:
        return ["leaks: none, no picture is in two splits"]
    between = ", ".join(f"{n} {pair}" for pair, n in counts["between"].items())
    lines = []
    for leak in found.leaks:
        one, other = found.manifest[leak.row], found.manifest[leak.other]
        places = f"{one.split} {place_of(one)!r}, {other.split} {place_of(other)!r}"
        lines.append(f"{leak.kind}: {places}")
    return [
        f"leaks: {counts['images']} images are in a later split too ({between}; "
        f"{counts['same_file']} same file, {counts['same_picture']} same picture, "
        f"{counts['fake_and_source']} {PAIR})",
        *_first(lines),
    ]


def _shortcut_lines(found: Findings) -> list[str]:
    lines = []
    for what, result in (
        ("the files' metadata alone", found.metadata),
        ("low-level statistics alone", found.pixels),
    ):
        if result is None:
            lines.append(f"shortcuts: {what} not audited, fewer than {MIN_IMAGES} images a class")
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
