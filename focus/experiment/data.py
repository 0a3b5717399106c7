"""Write the images of a run as a manifest: with other human maps, or without a generator."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from focus.data.bad_files import DIGESTS, without_digests
from focus.data.demo import ORACLE, demo_manifest
from focus.data.known_images import MANIFEST
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample
from focus.errors import InputError
from focus.experiment.frozen import IMAGES_OF_WORLD, Arm
from focus.experiment.grid import Run, Setup
from focus.experiment.records import identity
from focus.runtime.files import atomic_write

Images = Callable[[int, str], Manifest]
"""The images of a unit in a world."""

_TESTS_SEEN = {"untested": ("closed",), "known": ("closed", "closed_balanced")}
"""The test sets that runs see which choose a weight, by the images of their arm."""


def write_data(run: Run, images: Images) -> None:
    """Write the manifest of a run, or find it there as it is.

    Raises InputError if the file holds another one: runs of both would be compared.
    """
    run.data.parent.mkdir(parents=True, exist_ok=True)
    manifest = images(run.unit, run.world)
    manifest = Manifest(map(without_digests, manifest), manifest.source)
    if run.images in _TESTS_SEEN:
        manifest = _without_other_tests(manifest, run.images)
    elif run.images.startswith("left"):
        manifest = leave_out(manifest, int(run.images.removeprefix("left")))
    elif run.images == "shuffled":
        manifest = shuffled_maps(manifest, run.unit)
    elif run.images in ("masks", "oracle"):
        if run.images == "oracle":
            manifest += demo_manifest(draw=run.unit, splits=ORACLE, **IMAGES_OF_WORLD[run.world])
        manifest = exact_maps(manifest, run.data.parent / "face.png")
    before = run.data.read_bytes() if run.data.exists() else None
    with atomic_write(run.data) as aside:
        manifest.to_csv(aside)
        if before is not None and aside.read_bytes() != before:
            raise InputError(
                f"{run.data} lists other images than those given now: give another --output, or "
                "the data that it was begun with."
            )


def check_trained_on(run: Run, manifest: Manifest) -> None:
    """Refuse a finished run on one's own data that was of others than the manifest's.

    Images differ as :func:`focus.experiment.records.data_digest` tells them apart, but for human
    maps where the arm has others.

    Raises:
        InputError: naming the first image that is another one, was removed or is new.
    """
    now = _without_other_tests(manifest, run.images) if run.images in _TESTS_SEEN else manifest
    then = Manifest.from_csv(run.folder / MANIFEST)

    def identities(images: Manifest) -> Counter[tuple[object, ...]]:
        return Counter(identity(_as_compared(sample, run)) for sample in images)

    differences = identities(then) - identities(now), identities(now) - identities(then)
    for images, other in zip((then, now), differences, strict=True):
        for sample in images:
            if identity(_as_compared(sample, run)) in other:
                raise InputError(
                    f"The run {run.folder} is of other images than those given now, "
                    f"{sample.path!r} among them: give another --output, or the data that it was "
                    "begun with."
                )


def _as_compared(sample: Sample, run: Run) -> Sample:
    """Return the sample without the digest of its map if the arm has other maps than the data."""
    if run.images not in ("shuffled", "masks", "oracle"):
        return sample
    return replace(sample, extra={**sample.extra, DIGESTS["map"]: ""})


def _without_other_tests(manifest: Manifest, images: str) -> Manifest:
    """Return the images without the tests that an arm with such ``images`` may not see."""
    seen = _TESTS_SEEN[images]
    return manifest.where(lambda s: s.split != "test" or s.test_set in seen)


def with_maps(manifest: Manifest, maps: Sequence[str | None]) -> Manifest:
    """Give the training images these human maps, one for each row of the manifest."""
    return Manifest(
        (
            replace(sample, human_map=own) if sample.split == "train" else sample
            for sample, own in zip(manifest, maps, strict=True)
        ),
        manifest.source,
    )


def exact_maps(manifest: Manifest, face: Path) -> Manifest:
    """Give each training fake its mask, and real images the whole face, an oval drawn to ``face``.

    A fingerprint of the whole image has no map.
    """
    oval = Image.new("L", (64, 64))
    ImageDraw.Draw(oval).ellipse((16, 11, 47, 53), fill=255)
    with atomic_write(face) as aside:
        oval.save(aside, "PNG")
    maps = [str(face) if sample.label == REAL else sample.mask_path for sample in manifest]
    return with_maps(manifest, maps)


def shuffled_maps(manifest: Manifest, seed: int) -> Manifest:
    """Give each training image the human map of another one of its class.

    The maps of a class are moved on by one place in a random order, so that, if there are two, none
    stays where it belongs.
    """
    draw = np.random.default_rng(seed)
    rows: dict[int | None, list[int]] = {}
    for row, sample in enumerate(manifest):
        if sample.split == "train" and sample.human_map is not None:
            rows.setdefault(sample.label, []).append(row)
    maps = [sample.human_map for sample in manifest]
    for label in sorted(rows, key=str):
        order = draw.permutation(rows[label]).tolist()
        for row, giver in zip(order, [*order[1:], order[0]], strict=True):
            maps[row] = manifest[giver].human_map
    return with_maps(manifest, maps)


def leave_out(manifest: Manifest, number: int) -> Manifest:
    """Train and validate without one of the known generators, and test on its fakes.

    The test images are closed-balanced ones, in which the shortcut says nothing. Where there are
    none, they are validation images, of which then every second real one remains for validation.
    No image of an unknown generator is left, and no other test image.
    """
    known = manifest.split("train").generators()
    if len(known) < 2:
        raise InputError(
            "--search leaves one generator of the training fakes out, and all of them are of "
            f"{known[0] if known else 'none'!r}: name two at least in the data, or give --weights."
        )
    left = known[number % len(known)]
    balanced = [sample for sample in manifest if sample.test_set == "closed_balanced"]
    kept: list[Sample] = []
    reals = 0
    for sample in manifest:
        if sample.split == "test":
            continue
        mine = sample.label == SYNTHETIC and sample.generator == left
        reals += sample.split == "validation" and sample.label == REAL
        if not balanced and sample.split == "validation":
            tested = mine or (sample.label == REAL and reals % 2 == 0)
            kept.append(replace(sample, split="test") if tested else sample)
        elif not mine:
            kept.append(sample)
    kept += [
        replace(sample, test_set="")
        for sample in balanced
        if sample.label == REAL or sample.generator == left
    ]
    return Manifest(kept, manifest.source)


def trainable_arms(setup: Setup, manifest: Manifest, arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Return the arms that the data can train: without human maps, those that need none.

    Says which are left out. Raises InputError if that is all of them.
    """
    train = manifest.split("train")
    there = {
        "human map": any(sample.human_map is not None for sample in train),
        "artefact mask": any(sample.mask_path is not None for sample in train),
    }

    def lacks(arm: Arm) -> str:
        settings = {**setup.chosen.get(arm.loss, {}), **arm.settings}
        loss = setup.base.changed(**settings, loss=arm.loss).loss
        needed = "artefact mask" if arm.images == "masks" else "human map"
        return needed if (loss.saliency_weight or loss.aims_at_maps) and not there[needed] else ""

    gone = {name: lack for name, arm in arms.items() if (lack := lacks(arm))}
    if len(gone) == len(arms):
        raise InputError(
            f"No training image has a human map, which all losses given need ({', '.join(arms)}): "
            "give other --losses, or --human-maps."
        )
    for lack in dict.fromkeys(gone.values()):
        without = ", ".join(name for name in gone if gone[name] == lack)
        print(f"no training image has a{'n' * (lack[0] == 'a')} {lack}, so without: {without}")
    return {name: arm for name, arm in arms.items() if name not in gone}
