"""The images of a training run: read, split, checked."""

from pathlib import Path

from focus.config.train import (
    ResolvedTrainConfig,
    TrainConfig,
)
from focus.data.bad_files import BadFile, check_images
from focus.data.demo import demo_manifest
from focus.data.known_images import known_before
from focus.data.manifest import Manifest
from focus.data.readers import read_given
from focus.data.resumed import Resumed, resumed_data
from focus.data.splits import SHARE, assign_splits, check_trainable, check_unseen


def training_manifest(config: ResolvedTrainConfig, *, progress: bool = True) -> Manifest:
    """The images that a run would take, with their splits; raises InputError as its two steps."""
    listed = listed_images(config, progress=progress)
    return sound_images(listed, config, progress=progress)[0].manifest


def listed_images(
    config: ResolvedTrainConfig,
    *,
    recorded: Manifest | None = None,
    progress: bool = True,
    output: Path | None = None,
) -> Manifest:
    """All images of a run with their splits: the demo set, or ``--data`` and the test sets.

    recorded: what the run that is resumed trains on; its splits are taken, none is drawn. output:
    the folder of a new run, whose pictures may not be taken for images.

    Raises:
        InputError: no usable images, a split without one of the classes, images to validate or
            test on that the weights which training begins with know.
    """
    own, tests = read_given(config, output=output if recorded is None else None)
    if not own:
        manifest = demo_manifest(progress=progress)
    else:
        if progress and recorded is None and (line := _drawn_line(own, config)):
            print(line)
        manifest = own if recorded is not None else assign_splits(own, seed=config.seed)
    manifest += tests
    if recorded is None:
        check_trainable(manifest)
        check_unseen(manifest, known_before(config), str(config.initial_checkpoint))
    return manifest


def sound_images(
    listed: Manifest,
    config: ResolvedTrainConfig,
    *,
    recorded: Manifest | None = None,
    progress: bool = True,
) -> tuple[Resumed, list[BadFile]]:
    """Those of the images that can be decoded, and the files of those that cannot.

    recorded: what the run that is resumed began with, of which files may be lost since.

    Raises:
        InputError: a split without one of the classes, too many bad files, other data than those
            recorded.
    """
    manifest, bad = listed, list[BadFile]()
    if config.data or config.test_data or config.test_real:
        # The demo set's own checksum has been verified.
        manifest, bad = check_images(manifest, progress=progress, max_bad=config.max_bad)
    found = Resumed(manifest, manifest, "")
    if recorded is not None:
        run = config.run_folder
        found = resumed_data(manifest, recorded, run, bad=bad, max_bad=config.max_bad)
    check_trainable(found.manifest)
    return found, bad


def _drawn_line(own: Manifest, config: TrainConfig) -> str:
    """What to say of images without a split; a table may have a column for it by another name."""
    without = [sample.path for sample in own if not sample.split]
    if not without:
        return ""
    if len(without) < len(own):
        return (
            f"warning: {len(without)} of {len(own)} images have no split, the first is "
            f"{without[0]!r}: they count as train unless others of their group are elsewhere"
        )
    in_tables = not all(Path(path).is_dir() for path in config.data)
    return (
        f"no column or folder names a split: {SHARE:.0%} validation and {SHARE:.0%} test are drawn"
        + (" (--columns split=NAME names a column)" if in_tables else "")
    ).replace("%", " %")
