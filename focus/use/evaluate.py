"""What ``evaluate.py`` does: a trained detector on images, to scores, results and a report."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from focus import report
from focus.config.command_line import load_config
from focus.config.evaluate import EvaluateConfig
from focus.config.train import TrainConfig
from focus.data.bad_files import BAD_FILES, BadFile, check_images, write_bad_files
from focus.data.demo import demo_manifest
from focus.data.known_images import KnownImages, is_run, known_to, record_of
from focus.data.manifest import LABEL_NAMES, Manifest, absolute
from focus.data.readers import read_given
from focus.data.splits import RENAME_GROUPS
from focus.errors import InputError, UnreadableError, sentence, shown
from focus.evaluation import faithfulness, robustness
from focus.evaluation.inference import score_shared
from focus.evaluation.result_table import format_table, remarks
from focus.evaluation.results import Results, summarise, write_results
from focus.evaluation.scores import Scores
from focus.model.config import CONFIG_FILE
from focus.model.detector import Detector
from focus.report.contact_sheet import contact_sheet
from focus.runtime.files import check_writable, locked
from focus.runtime.launch import closing_process_group, run_on_all, run_on_main_first, start
from focus.runtime.machine import default_workers, is_main_process
from focus.training.run_folder import LOCK, SUMMARY

# What an evaluation leaves, or removes since it was of other scores.
_FILES = (
    *("results.json", "scores.csv", "overlays.png", BAD_FILES),
    *(*robustness.FILES, faithfulness.FILE, report.REPORT),
)


@contextmanager
def _how_to_go_on() -> Iterator[None]:
    """Decorates the program: what it says of a file that was readable when it was begun."""
    try:
        yield
    except UnreadableError as error:
        raise UnreadableError(
            f"{sentence(error).removesuffix('.')}, or evaluate again, which leaves it out where "
            "--max-bad allows it."
        ) from error


@closing_process_group()
@_how_to_go_on()
def evaluate(config: EvaluateConfig) -> None:
    """Score, write scores, results, a sheet of overlays and a report, print a table.

    Each process of a launch scores its share of the images, the main one does the rest. Of
    ``--compare`` only a report of several runs.

    Raises:
        InputError: a missing model or data, or another process that evaluates into the folder;
            before anything is scored or written.
    """
    if config.compare:
        if is_main_process():
            report.compare(config.compare, Path(config.output or "comparison"))
        return
    accelerator = start(config)
    model, output, detector = run_on_all(accelerator, lambda: _loaded(config))
    main = accelerator.is_main_process
    with ExitStack() as stack:

        def hold(ready: bool) -> None:
            run_on_main_first(
                accelerator, lambda: stack.enter_context(held(output)) if main and ready else None
            )

        # At once, before images are read, which may take an hour; but what is wrong with them
        # leaves nothing where no evaluation was.
        hold((output / LOCK).exists())
        manifest, bad, workers = run_on_main_first(
            accelerator, lambda: _images(config, model, output, progress=main)
        )
        if config.robustness:
            robustness.check_labels(manifest)
        hold(True)
        workers = workers if config.workers is None else config.workers
        _evaluate(config, accelerator, model, output, detector, manifest, bad, workers)


@contextmanager
def held(output: Path) -> Iterator[None]:
    """The folder of an evaluation, made if need be, for this process alone as long as it lasts.

    Else the files of two that run at once would be mixed. This process may hold it twice. A folder
    that is made is removed if nothing was written to it.

    Raises:
        InputError: another process evaluates into it.
    """
    made = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / LOCK) as mine:
        if not mine:
            raise InputError(
                f"Another process evaluates into {output}: wait for its end, or give another "
                "--output."
            )
        try:
            yield
        finally:
            with suppress(OSError):  # another process has come in the meantime
                if made and [path.name for path in output.iterdir()] == [LOCK]:
                    (output / LOCK).unlink()
                    output.rmdir()


def _evaluate(
    config: EvaluateConfig,
    accelerator: Accelerator,
    model: Path,
    output: Path,
    detector: Detector,
    manifest: Manifest,
    bad: list[BadFile],
    workers: int,
) -> None:
    """:func:`evaluate`, once the images are known and the folder is held.

    model: its folder. bad: the files that cannot be decoded.
    """
    main = accelerator.is_main_process
    if main and (earlier := [name for name in _FILES if (output / name).exists()]):
        print(f"replaced or removed in {output}: {', '.join(earlier)}")
    size = config.batch_size
    scores = score_shared(
        accelerator,
        detector.to(accelerator.device),
        manifest,
        batch_size=size,
        workers=workers,
        progress=True,
        description="scoring",
    )
    results: Results | None = None
    written: list[Path] = []
    said: list[str] = []
    if main:
        # At once: what follows may take hours, or find an image that the network cannot score.
        results, written = _write_scores(output, detector, scores, manifest, bad)
    kept: list[robustness.Kept] = []
    if config.robustness:
        kept = robustness.measure(
            accelerator, detector, manifest, scores, batch_size=size, workers=workers
        )
        if main:
            written += robustness.write(kept, output)
            said += robustness.lines(kept)
    if config.faithfulness:
        falls = faithfulness.measure(
            accelerator, detector, manifest, batch_size=size, workers=workers
        )
        if main:
            written.append(faithfulness.write(falls, scores, output))
            said += faithfulness.lines(falls, scores, detector.config.training_generators)
            if results is not None:
                faithfulness.add(falls, scores, results)
                write_results(output, scores, results)
    if not main:
        return
    name = model.parent.name if model.name == "model" else model.name
    if results is not None:
        print(format_table({name: results}), end="\n\n")
    said += remarks(scores, results)
    if detector.points is not None and (warning := detector.points.warning()):
        said.append(f"warning: {warning}")
    for line in [*said, *(f"written: {path}" for path in written)]:
        print(line)
    if config.report:
        write = partial(report.write, output, name, detector, manifest, scores, results)
        run = model.parent
        page = partial(write, summary=run / SUMMARY, eval_metric=_eval_metric(run), kept=kept)
        print(report.attempt(page))


def _write_scores(
    output: Path, detector: Detector, scores: Scores, manifest: Manifest, bad: list[BadFile]
) -> tuple[Results | None, list[Path]]:
    """The results, None without a label, and the files written; those of other images are gone."""
    results: Results | None = None
    if (scores.label >= 0).any():
        trained = detector.config
        results = summarise(
            scores,
            trained.training_generators,
            trained.training_families,
            detector.points,
            progress=True,
        )
    written = [*write_results(output, scores, results), output / "overlays.png"]
    contact_sheet(detector, manifest, written[-1])
    if bad:
        written.append(output / BAD_FILES)
        write_bad_files(bad, written[-1])
    else:
        (output / BAD_FILES).unlink(missing_ok=True)
    report.remove(output)
    return results, written


def _loaded(config: EvaluateConfig) -> tuple[Path, Path, Detector]:
    """The folders of the model and of what is written, and the detector."""
    model, output = _model_folder(config), _output_folder(config)
    return model, output, Detector.from_pretrained(model)


def _model_folder(config: EvaluateConfig) -> Path:
    if config.model_dir is not None:
        if not Path(config.model_dir).is_dir():
            raise InputError(f"--model-dir {config.model_dir} is no folder: give one with a model.")
        return absolute(config.model_dir)  # "." has no name
    run = Path(str(config.run))
    if not run.is_dir():
        raise InputError(f"--run {run} is no folder: give a run folder of train.py.")
    if (run / CONFIG_FILE).is_file():
        raise InputError(f"--run {run} is a model's folder, not a run's: give it by --model-dir.")
    if not (run / "model").is_dir():
        raise InputError(f"--run {run} has no folder 'model': train it for an epoch at least.")
    return absolute(run / "model")


def _output_folder(config: EvaluateConfig) -> Path:
    output = Path(config.output or Path(config.run or "") / "evaluation")
    check_writable(output)
    if is_run(output) or (output / CONFIG_FILE).is_file():
        what = "a run's" if is_run(output) else "a model's"
        raise InputError(
            f"--output {output} is {what} own folder, whose files would be replaced: give another "
            f"one, as {output / 'evaluation'}."
        )
    return output


def _eval_metric(run: Path) -> str | None:
    """What chose the model of a run; None for a model's folder that lies in no run."""
    try:
        return load_config(TrainConfig, run / "config.yaml").eval_metric
    except InputError:
        return None


def _images(
    config: EvaluateConfig, model: Path, output: Path, progress: bool
) -> tuple[Manifest, list[BadFile], int]:
    """What to score, what cannot be decoded, and how many workers that is worth."""
    record = record_of(model.parent)
    given, from_demo = _given(config, output, record, progress=progress)
    if from_demo:
        return given, [], 0
    unseen = _unseen(config, model, given, record, progress=progress)
    # The share is of all that was given, as training has it: what passes there passes here.
    usable, bad = check_images(unseen, progress=progress, max_bad=config.max_bad, share_of=given)
    return usable, bad, default_workers()


def _given(
    config: EvaluateConfig, output: Path, record: Manifest, *, progress: bool
) -> tuple[Manifest, bool]:
    """The images given, else those that the run was tested on; whether all are the demo set's."""
    for path in (*config.data, *config.test_data.values(), *config.test_real.values()):
        if Path(path).resolve() in [(output / name).resolve() for name in _FILES]:
            raise InputError(f"--output {output} would replace {path}: give another folder.")
    own, tests = read_given(config, allow_unlabelled=True, output=output)
    given = own + tests
    if not given and config.run is not None:
        given = record.split("test")
        if not load_config(TrainConfig, Path(config.run) / "config.yaml").data:
            demo = demo_manifest(progress=progress)
            # Test images beside the demo set are recorded behind it.
            added = record[len(demo) :]
            return demo.split("test") + added, not added
    if not given:
        raise InputError("There are no images to score: give --data or --test-data NAME=PATH.")
    return given, False


def _unseen(
    config: EvaluateConfig, model: Path, given: Manifest, record: Manifest, *, progress: bool
) -> Manifest:
    """Without what the model was trained or chosen on, which says nothing about new images."""
    if progress and not is_run(model.parent):
        where = "The model lies in no run folder (with config.yaml and manifest.csv)"
        advice = "give --run"
        if config.run is not None:
            where = f"warning: --run {config.run} lacks config.yaml or manifest.csv"
            advice = "put it back"
        print(
            f"{where}, so that images it was trained on cannot be left out: {advice}, or be sure "
            "that these are new."
        )
    known = KnownImages(known_to(model), record.split("test"))
    shared = {id(sample): known.match(sample) for sample in given}
    others = given.where(lambda s: s.split != "train" and shared[id(s)] != "file")
    unseen = others.where(lambda s: not shared[id(s)])
    if not unseen:
        raise InputError(
            f"All {len(given)} images of {given.source} are for training, or what the model was "
            f"chosen on: give others{RENAME_GROUPS * bool(others)}."
        )
    if progress and len(unseen) < len(given):
        related = len(others) - len(unseen)
        print(
            f"{len(given) - len(unseen)} of {len(given)} images are left out: they are for "
            "training, or what the model was chosen on"
            + (f", {related} of them by their group." if related else ".")
        )
        if related:
            print(f"warning: images are left out by the names of their groups{RENAME_GROUPS}")
        tests = given.where(lambda s: s.split in ("", "test"))
        if gone := sorted(_kinds(tests) - _kinds(unseen)):
            print(f"warning: all images of these are left out, give others: {', '.join(gone)}")
    return unseen


def _kinds(manifest: Manifest) -> set[str]:
    """Whose images there are, in words."""
    kinds = {(LABEL_NAMES[s.label], s.generator) for s in manifest if s.label is not None}
    return {f"{label} of {shown(name)}" if name else label for label, name in kinds}
