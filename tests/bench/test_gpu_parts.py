"""Parts of ``bench.gpu``, each by itself on the CPU: what they vary and watch, what they say."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu, gpu_timing, gpu_tools, gpu_training, gpu_tuning, gpu_worker, head
from bench.gpu_steps import SHAPES
from bench.head_table import Shape

from ..gpu_runs import a_run


@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
def test_each_number_of_bytes_ahead_gives_other_stages(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from triton import knobs
    from triton.runtime.driver import driver

    from bench import codegen

    if knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: the kernels are not those of a GPU")
    monkeypatch.setattr(driver, "_active", None)  # and put back, after capture() has set it
    for grid in codegen.GRIDS:
        steps = codegen.steps(torch.bfloat16, codegen.LAYOUTS[layout], grid)
        found = []
        for kib in gpu_tuning.KIB_AHEAD:
            with gpu_tuning.bytes_ahead(kib) as stages:
                for phase in ("forward", "backward"):
                    codegen.capture("sm_90", steps[f"focus_head {phase} K 2"])
            assert len(stages) == 2
            found.append(tuple(stages))
        assert len(set(found)) == len(found), found


def test_more_bytes_ahead_than_a_card_has_are_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from triton.runtime.errors import OutOfResources

    from focus.kernels import triton_tiles

    def step(inputs: head.Inputs) -> None:
        if triton_tiles.BYTES_AHEAD > 100 * 2**10:
            raise OutOfResources(141312, 101376, "shared memory")
        if triton_tiles.BYTES_AHEAD == 8 * 2**10:
            raise RuntimeError("another")

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(head, "ours", step)
    usual, run = triton_tiles.BYTES_AHEAD, a_run(tmp_path)
    gpu_tuning.stages(run)
    rows = run.out["rows"]
    assert [row["kib_ahead"] for row in rows] == [*gpu_tuning.KIB_AHEAD] * 2
    assert rows[0]["problem"] == "RuntimeError: another"
    assert all(row["median_us"] >= 0 for row in rows[1:3])
    assert "Required: 141312, Hardware limit: 101376" in rows[3]["obstacle"]
    assert len(run.report.problems) == 2, run.report.problems
    assert usual == triton_tiles.BYTES_AHEAD


def test_what_the_parts_vary_is_compiled_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from focus.kernels import triton_tiles

    launched: list[Any] = []
    ahead: list[int] = []
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(
        gpu_tuning, "forward_of", lambda inputs: lambda splits: launched.append(splits)
    )
    monkeypatch.setattr(head, "ours", lambda inputs: ahead.append(triton_tiles.BYTES_AHEAD))
    for work in gpu_worker.compiled(((2, 16, 9),), "cpu"):
        if work.func in (gpu_tuning._splits, gpu_tuning._step):
            work("cpu")
    assert launched == [*gpu_tuning.SPLITS] * 2
    assert ahead == [1024 * kib for kib in gpu_tuning.KIB_AHEAD] * 2


def test_a_sanitizer_watches_all_kinds_of_kernels_in_both_layouts() -> None:
    watched = gpu_worker.watched()
    for layout in ("nchw", "channels_last"):
        seen = {
            (work.func.__name__, case.dtype, case.classes, *more)
            for work in watched
            for case, *more in [work.args]
            if case.layout == layout
        }
        assert {("run", dtype, 2) for dtype in ("bf16", "fp32", "fp16")} <= seen
        assert {("run", "bf16", 4), ("run_maps", "bf16", 17)} <= seen
        for cam_class in ("contrast", "predicted"):
            assert {("run_head", "bf16", k, cam_class) for k in (4, 17)} <= seen
    assert {1000, 16} <= {work.args[0].classes for work in watched}
    assert max(work.args[0].features_bytes for work in watched) < 2**20


@pytest.mark.parametrize("shapes", [((2, 16, 9),), ((2, 16, 9), (3, 16, 49), (4, 16, 64))])
def test_of_shapes_that_are_given_a_sanitizer_watches_the_same_kinds(
    shapes: tuple[Shape, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[Any, ...]] = []
    for name in ("run", "run_head", "run_maps"):
        seen = partial(lambda name, case, *more: ran.append((name, case, *more[:-1])), name)
        monkeypatch.setattr(gpu_worker, name, seen)
    given = ",".join("x".join(map(str, shape)) for shape in shapes)
    told: list[list[str]] = [[], ["--shapes", given]]
    kinds = []
    for options in told:
        monkeypatch.setattr(sys, "argv", ["gpu_worker", "watch", "--device", "cpu", *options])
        gpu_worker.main()
        kinds.append({(name, *case[1:], *more) for name, case, *more in ran})
        watched = {case.shape for _, case, *_ in ran}
        ran.clear()
    assert watched == set(shapes)
    assert kinds[0] == kinds[1]
    assert capsys.readouterr().out == 2 * f"{gpu_worker.DONE}\n"


@pytest.mark.parametrize("task", ["watch", "profile"])
def test_a_task_that_has_no_shares_refuses_one(
    task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["gpu_worker", task, "--share", "0/2", "--shapes", "2x16x9", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        gpu_worker.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(f"error: {task} runs all of its steps: drop --share.")


def test_time_of_a_kernel_is_the_median_of_steps_without_what_overwrites_the_l2() -> None:
    maps, fill = [10.0, 90.0, 12.0], [3.0, 2.0, 4.0]
    events: list[tuple[str, float]] = []
    for number in range(3):
        # The step, too, has a kernel that fills.
        events += [("fill", 500), ("maps", maps[number]), ("fill", fill[number]), ("maps", 1)]
    assert gpu_timing.by_name(events, 3, "kernels") == {
        "total": 3,
        "kernels": {"maps": {"count": 2, "us": 13.0}, "fill": {"count": 1, "us": 3.0}},
    }


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], "recorded 0 kernels of 3 steps"),
        (["fill"] * 3, "recorded 3 kernels of 3 steps"),
        (["fill", "maps"] * 2 + ["maps", "fill"], "6 kernels of 3 steps do not repeat"),
        (["fill", "maps"] * 3 + ["fill"], "7 kernels of 3 steps do not repeat"),
    ],
)
def test_a_profile_without_the_kernels_is_an_obstacle(events: list[str], words: str) -> None:
    found = gpu_timing.by_name([(name, 1) for name in events], 3, "kernels")
    assert list(found) == ["obstacle"]
    assert words in found["obstacle"]


def test_an_obstacle_of_the_profiler_is_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.profiler.profile, "events", lambda profiler: None)
    run = a_run(tmp_path)
    gpu.launches(run)
    assert run.out["obstacle"] == "the profiler recorded 0 operators of 2 steps"
    assert {row["obstacle"] for row in run.out["rows"]} == {run.out["obstacle"]}


def test_traffic_of_the_telling_shapes_is_kept_if_the_others_do_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, forward, divider = [], {"kernel": "maps"}, {"kernel": gpu_tools.DIVIDER}

    def profile(command: list[str], seconds: float) -> dict[str, Any]:
        asked.append(command[-1])
        if len(asked) == 2:
            return {"obstacle": "ncu did not end"}
        return {"kernels": [forward, divider, {"kernel": "gradient"}, divider] * 4}

    monkeypatch.setattr(gpu_tools, "profile", profile)
    run = a_run(tmp_path)._replace(shapes=SHAPES)
    gpu.traffic(run)
    assert asked == ["20x2048x49,128x2048x49", "20x1024x49,128x2048x100,256x2048x64"]
    assert run.out["obstacle"] == "ncu did not end"
    assert run.report.problems == []
    found = [(row["shape"], row["dtype"], row["layout"]) for row in run.out["rows"]]
    assert found == [
        (shape, "bf16", layout)
        for layout in ("channels_last", "nchw")
        for shape in ("20x2048x49", "128x2048x49")
    ]


def test_a_network_too_large_for_a_card_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps_of(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(gpu_training, "steps_of", steps_of)
    run = a_run(tmp_path)
    gpu_training.training_step(run)
    (row,) = run.out["rows"]
    assert row["obstacle"] == "CUDA out of memory. Tried to allocate 2 GiB"
    assert run.report.problems == []


def test_a_training_step_changes_the_network_by_each_loss() -> None:
    steps = gpu_training.steps_of("test_resnet", 2, 64, "cpu")
    for step in steps.values():
        detector, *_ = step.args
        before = [parameter.clone() for parameter in detector.parameters()]
        (loss,) = step()
        assert loss.isfinite()
        changed = [not p.equal(b) for p, b in zip(detector.parameters(), before, strict=True)]
        assert any(changed)
        assert all(parameter.grad is None for parameter in detector.parameters())
