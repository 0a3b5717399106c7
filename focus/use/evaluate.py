"""Evaluate a trained detector on images, or the scores that any detector left in a table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from focus.config.shared import parse_labels
from focus.config.use import EvaluateConfig
from focus.data.copies import COPIES
from focus.data.images import BAD_FILES
from focus.data.known_images import is_run
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError
from focus.evaluation import leaderboard, other_detectors, robustness
from focus.evaluation.findings import recorded
from focus.evaluation.other_detectors import ScoreTable
from focus.evaluation.results import FAITHFULNESS, Results
from focus.evaluation.scores import Scores
from focus.findings import print_findings
from focus.model.config import CONFIG_FILE
from focus.model.operating_points import Threshold
from focus.report.evaluation import Evaluation
from focus.report.files import remove_report
from focus.runtime.files import check_writable
from focus.runtime.machine import is_main_process


def evaluate(config: EvaluateConfig) -> Evaluation | None:
    """Score images and write scores, results, a sheet of overlays and a report.

    Each process of a launch scores its share of the images, the main one does the rest. With
    ``--scores`` the scores of a table are evaluated, with ``--compare`` only a report of several
    runs or tables is written. Several detectors of one table are ranked.

    Returns the evaluation, in the main process; None in the others, after a comparison and after a
    ranking.

    Raises InputError for a missing model or unusable data, before anything is scored or written.

    Examples:
        Test the model of a run on fakes of one more generator.

        >>> from focus import EvaluateConfig, evaluate
        >>> fakes = {"SG3": "unknown/StyleGAN3"}
        >>> config = EvaluateConfig(run="runs/first", test_data=fakes, output="sg3")
        >>> evaluation = evaluate(config)
        >>> generator = evaluation.results["open"]["generators"]["SG3"]
        >>> 0 <= generator["auc"] <= 1
        True
        >>> generator["n_synthetic"]
        4
    """
    if config.compare or config.scores:
        return _of_tables(config) if is_main_process() else None
    # With torch and timm, six seconds of a processor that tables do without.
    from focus.use.score import score

    return score(config, lambda: _output(config))


def _of_tables(config: EvaluateConfig) -> Evaluation | None:
    """Write the results and the report of somebody else's scores, or a comparison."""

    last_images: Scores | None = None

    def evaluated(path: str) -> tuple[Scores, Results]:
        nonlocal last_images
        table = _read(config, path)
        # Tables that are compared mostly list the same images: their columns are held once.
        if last_images is not None:
            table = replace(table, images=table.images.sharing(last_images))
        last_images = table.images
        return other_detectors.evaluate_scores(
            table, config.training_generators, config.threshold, progress=True
        )

    if config.compare:
        from focus.report.comparison import compare  # with matplotlib, to draw

        output = _checked(
            Path(config.output or "comparison"),
            usual="comparison",
            others=["results.json", leaderboard.FILE],
        )
        compare(config.compare, output, evaluated, common=config.common)
        return None
    if config.ranks_detectors:
        _rank(config, str(config.scores))
        return None
    output = _output(config)
    path = Path(str(config.scores))
    if path.resolve() == (output / "scores.csv").resolve():
        raise InputError(f"--scores {path} is a file that is written: give another --output.")
    scores, results = evaluated(str(config.scores))
    faces = Manifest(map(Sample, scores.path)) if config.data_root else None
    findings = recorded(results)
    evaluation = Evaluation(path.name, output, scores, results, findings, manifest=faces)
    written = evaluation.save()
    for name in (BAD_FILES, COPIES):
        (output / name).unlink(missing_ok=True)
    evaluation.lines = [f"threshold: {Threshold(*results['decision'].values())}"]
    evaluation.lines += [f"written: {file}" for file in written]
    if config.report:
        evaluation.lines.append(evaluation.save_report())
    return evaluation


def _rank(config: EvaluateConfig, path: str) -> None:
    """Write and print the leaderboard of the detectors whose scores are in one table."""
    from focus.report import leaderboard as leaderboard_page  # with matplotlib, to draw
    from focus.report.page import attempt

    output = _checked(
        Path(config.output or "leaderboard"), usual="leaderboard", others=["results.json"]
    )
    if Path(path).resolve() == (output / leaderboard.FILE).resolve():
        raise InputError(f"--scores {path} is a file that is written: give another --output.")
    table = _read(config, path)
    boards = leaderboard.leaderboards(table, config.training_generators)
    print(leaderboard_page.as_text(boards), end="\n\n")
    remove_report(output)
    print(f"written: {leaderboard.write(boards, output)}")
    if config.report:
        print(attempt(lambda: leaderboard_page.write(boards, table, output)))
    print_findings(leaderboard_page.findings(boards, table))


def _read(config: EvaluateConfig, path: str) -> ScoreTable:
    """Read a table of scores, and print what was found in it."""
    table = other_detectors.read(
        path,
        config.columns_of(path),
        config.data_root,
        scores=config.scores_of(path),
        words=parse_labels(config.labels),
        scale=config.score_scale,
        higher_is=config.higher_is,
        common=config.common,
    )
    print(table, flush=True)
    return table


def _output(config: EvaluateConfig) -> Path:
    """Return the folder of an evaluation; see :func:`_checked`."""
    output = Path(config.output or Path(config.run or "") / "evaluation")
    others = [leaderboard.FILE]
    if config.scores:  # whose evaluation measures neither
        others += [robustness.FILE, FAITHFULNESS]
    return _checked(output, usual="evaluation", others=others)


def _checked(output: Path, *, usual: str, others: Sequence[str]) -> Path:
    """Return the folder to write to.

    Evaluations, leaderboards and comparisons write their reports under the same names.

    usual: The usual name of such a folder. others: Files of other commands, which this one would
    replace, remove or leave beside its own report.

    Raises:
        InputError: nothing can be written there; it is the folder of a run or of a model, or holds
            one of ``others``.
    """
    check_writable(output)
    if is_run(output) or (output / CONFIG_FILE).is_file():
        raise InputError(
            f"--output {output} is the folder of a run or a model, whose files would be replaced: "
            f"give another one, as {output / usual}."
        )
    for name in others:
        if (output / name).is_file():
            raise InputError(
                f"--output {output} holds {name} of another command, whose files would be "
                "replaced: give another folder."
            )
    return output
