"""Say which images a run trains on: with other human maps, or without a generator."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from focus.data.bad_files import DIGESTS, without_digests
from focus.data.demo import ORACLE, demo_manifest
from focus.data.known_images import MANIFEST
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample
from focus.errors import InputError
from focus.experiment.protocol import IMAGES_OF_WORLD, Arm, Run, Setup
from focus.experiment.records import identity
from focus.runtime.files import atomic_write

Images = Callable[[int, str], Manifest]
"""The images of a unit in a world."""

_TESTS_SEEN = {"untested": ("closed",), "known": ("closed", "closed_balanced")}
"""The test sets that runs see which choose a weight, by the images of their arm."""
_OTHER_MAPS = ("shuffled", "masks", "oracle")
"""Images of arms that have other human maps than the data."""


def write_data(run: Run, images: Images) -> None:
    """Write the manifest of a run, or find it there as it is.

    Raises InputError if the file holds another one: runs of both would be compared.
    """
    run.data.parent.mkdir(parents=True, exist_ok=True)
    manifest = _images_of(run, images(run.unit, run.world))
    before = run.data.read_bytes() if run.data.exists() else None
    with atomic_write(run.data) as aside:
        manifest.to_csv(aside)
        if before is not None and aside.read_bytes() != before:
            raise InputError(
                f"{run.data} lists other images than those given now: give another --output, or "
                "the data that it was begun with."
            )


def _images_of(run: Run, manifest: Manifest) -> Manifest:
    """Return the images of a run, which its arm says, of those of its unit."""
    manifest = Manifest(map(without_digests, manifest), manifest.source)
    if run.images in _TESTS_SEEN:
        return _without_other_tests(manifest, run.images)
    if run.images.startswith("left"):
        return leave_out(manifest, int(run.images.removeprefix("left")))
    if run.images == "shuffled":
        return shuffled_maps(manifest, run.unit)
    face = run.data.parent / "face.png"
    if run.images == "masks":
        return exact_maps(manifest, face)
    if run.images == "oracle":
        unknown = demo_manifest(draw=run.unit, splits=ORACLE, **IMAGES_OF_WORLD[run.world])
        return exact_maps(manifest + unknown, face)
    return manifest


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

    identities_then, identities_now = identities(then), identities(now)
    gone, new = identities_then - identities_now, identities_now - identities_then
    for images, different in ((then, gone), (now, new)):
        for sample in images:
            if identity(_as_compared(sample, run)) in different:
                raise InputError(
                    f"The run {run.folder} is of other images than those given now, "
                    f"{sample.path!r} among them: give another --output, or the data that it was "
                    "begun with."
                )


def _as_compared(sample: Sample, run: Run) -> Sample:
    """Return the sample without the digest of its map if the arm has other maps than the data."""
    if run.images not in _OTHER_MAPS:
        return sample
    return replace(sample, extra={**sample.extra, DIGESTS["map"]: ""})


def _without_other_tests(manifest: Manifest, images: str) -> Manifest:
    """Return the images without the tests that an arm with such ``images`` may not see."""
    seen = _TESTS_SEEN[images]
    return manifest.where(lambda sample: sample.split != "test" or sample.test_set in seen)


def with_maps(manifest: Manifest, maps: Sequence[str | None]) -> Manifest:
    """Give the training images these human maps, one for each row of the manifest."""
    samples = [
        replace(sample, human_map=human_map) if sample.split == "train" else sample
        for sample, human_map in zip(manifest, maps, strict=True)
    ]
    return Manifest(samples, manifest.source)


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
    generators = manifest.split("train").generators()
    if len(generators) < 2:
        raise InputError(
            "--search leaves one generator of the training fakes out, and all of them are of "
            f"{generators[0] if generators else 'none'!r}: name two at least in the data, or give "
            "--weights."
        )
    left_out = generators[number % len(generators)]
    trained = [sample for sample in manifest if sample.split != "test"]
    balanced = [sample for sample in manifest if sample.test_set == "closed_balanced"]
    if not balanced:
        return Manifest(_tested_on_validation(trained, left_out), manifest.source)

    samples = [sample for sample in trained if not _is_fake_of(sample, left_out)]
    for sample in balanced:
        if sample.label == REAL or sample.generator == left_out:
            samples.append(replace(sample, test_set=""))
    return Manifest(samples, manifest.source)


def _tested_on_validation(samples: Iterable[Sample], left_out: str) -> list[Sample]:
    """Move the validation fakes of a generator, and every second real image, to the test."""
    kept: list[Sample] = []
    n_real = 0
    for sample in samples:
        is_left_out = _is_fake_of(sample, left_out)
        if sample.split != "validation":
            if not is_left_out:
                kept.append(sample)
            continue
        is_tested = is_left_out
        if sample.label == REAL:
            n_real += 1
            is_tested = n_real % 2 == 0
        kept.append(replace(sample, split="test") if is_tested else sample)
    return kept


def _is_fake_of(sample: Sample, generator: str) -> bool:
    return sample.label == SYNTHETIC and sample.generator == generator


def trainable_arms(setup: Setup, manifest: Manifest, arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Return the arms that the data can train: without human maps, those that need none.

    Says which are left out. Raises InputError if that is all of them.
    """
    train = manifest.split("train")
    lacking = []
    if not any(sample.human_map is not None for sample in train):
        lacking.append("human map")
    if not any(sample.mask_path is not None for sample in train):
        lacking.append("artefact mask")

    needs = {name: _needs(setup, arm) for name, arm in arms.items()}
    trainable = {name: arm for name, arm in arms.items() if needs[name] not in lacking}
    if not trainable:
        raise InputError(
            f"No training image has a human map, which all losses given need ({', '.join(arms)}): "
            "give other --losses, or --human-maps."
        )
    gone = [name for name in arms if name not in trainable]
    for lack in dict.fromkeys(needs[name] for name in gone):
        without = ", ".join(name for name in gone if needs[name] == lack)
        article = "an" if lack == "artefact mask" else "a"
        print(f"no training image has {article} {lack}, so without: {without}")
    return trainable


def _needs(setup: Setup, arm: Arm) -> str:
    """Return the kind of map that the training images of an arm need, "" for none."""
    settings = {**setup.chosen.get(arm.loss, {}), **arm.settings}
    loss = setup.base.changed(**settings, loss=arm.loss).loss
    if not (loss.saliency_weight or loss.aims_at_maps):
        return ""
    return "artefact mask" if arm.images == "masks" else "human map"
