"""``python -m bench.gpu`` as far as a CPU can tell: a rehearsal of the whole program, what it makes
of other programs' output, and how it divides its time. Nothing here runs on a GPU."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from argparse import ArgumentTypeError
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from bench import gpu, gpu_tools, gpu_tuning
from bench.gpu_report import Budget, Part, Report
from bench.gpu_steps import SHAPES, Case, Operation, cases, inputs_of, operations
from focus.errors import InputError

from ..gpu_runs import a_run

ROOT = Path(__file__).parents[2]


def bench_gpu(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.gpu", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def write_tests(path: Path, *bodies: str) -> Path:
    lines = ["import time, pytest", "pytestmark = pytest.mark.gpu"]
    for number, body in enumerate(bodies):
        lines += [f"def test_{number}():", f"    {body}"]
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.mark.slow
def test_the_whole_program_on_the_cpu(tmp_path: Path) -> None:
    passing = write_tests(tmp_path / "test_ours.py", "assert True")
    path = tmp_path / "results" / "report.json"
    done = bench_gpu(
        *("--device", "cpu", "--shapes", "2x16x9", "--minutes", "4"),
        *("--tests", str(passing), "--output", str(path)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(path)
    report = json.loads(path.read_text())
    assert report["device"] == "cpu"
    assert report["complete"] is True
    assert report["problems"] == []
    assert report["machine"]["torch"] == torch.__version__
    assert not {"card", "driver", "cuda", "nvidia_smi"} & set(report["machine"])
    assert not re.search(
        r"\b(kernels|graph|peak_memory_of_features|host_us|warm_us)\b", path.read_text()
    )
    assert [name for name in report if name in gpu.PARTS] == list(gpu.PARTS)
    assert not [name for name in gpu.PARTS if "error" in report[name]]
    assert report["tests"]["passed"] == 1
    assert report["compilation"]["processes"] == len(os.sched_getaffinity(0))

    # F of 2 x 16 x 9 is 576 bytes in bfloat16.
    copied = {row["dtype"]: row["bytes"] for row in report["copies"]["rows"]}
    assert copied == {"bf16": 576, "fp32": 1152}
    large = report["copies"]["large"]
    assert large["bytes_per_second"] == pytest.approx(
        2 * large["bytes"] / large["median_us"] * 1e6, rel=1e-3
    )

    one, eight = report["copies"]["launch_floor"]
    assert (one["launches"], eight["launches"]) == (1, 8)
    assert 0 < one["median_us"] < eight["median_us"]

    every = [list(case.labels().values()) for case in cases(((2, 16, 9),))]
    rows = report["times"]["rows"]
    kinds = [("ours", "forward"), ("ours", "backward"), ("ours", "step"), ("plain mean", "step")]
    kinds += [("plain adaptive", "step"), ("branches", "step")]
    assert [[row[name] for name in Case._fields] for row in rows] == [
        e for e in every for _ in kinds
    ]
    assert [(row["provider"], row["phase"]) for row in rows] == kinds * len(every)
    for row in rows:
        assert 0 < row["p10_us"] <= row["median_us"] <= row["p90_us"]
        assert row["dtype"] == "bf16" or row["error"] < 1e-5
        assert ("of_copy" in row) == (row["provider"] == "ours")
    whole = report["compiled"]["rows"], report["compiled"].get("skipped", [])
    assert whole[0]
    assert len(whole[0]) + len(whole[1]) == 4
    assert {row["provider"] for row in whole[0]} == {"branches compiled"}
    step = next(r for r in report["launches"]["rows"] if (r["provider"], r["phase"]) == kinds[2])
    assert step["operators"]["focus::focus_head"]["count"] == 1
    assert step["total"] == sum(o["count"] for o in step["operators"].values())
    trained = report["step"]["rows"]
    assert [row["loss"] for row in trained] == ["CE", "CE again", "ours", "branches"]
    assert trained[0]["of_ce"] == 1
    assert all(row["median_us"] > 0 for row in trained)
    # Whether they are on the path or not: there is nothing on a CPU that they could watch.
    assert all(report[name]["obstacle"] for name in ("traffic", "memcheck", "racecheck"))


def test_nothing_of_the_eager_step_is_left_when_a_graph_is_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss would keep the nodes of the leaves on the stream that it ran on."""
    case = Case((2, 16, 9), "fp32", "nchw")
    inputs = inputs_of(case, "cpu")
    _, backward, *_ = operations(inputs)
    made: list[Any] = []

    def make() -> Any:
        made.append(backward.make())
        loss = made[-1].args[0]
        alive.append(weakref.ref(loss.grad_fn))
        return made.pop()

    def capture(make: Any) -> Any:
        gc.collect()
        assert [ref() for ref in alive] == [None]
        return make()

    alive: list[Any] = []
    monkeypatch.setattr(gpu, "captured", capture)
    monkeypatch.setattr(gpu, "measure", lambda step, device: {})
    run = a_run(tmp_path)._replace(device="cuda")
    rows = list(gpu.time_operation(backward._replace(make=make), case, run))
    assert [row["launch"] for row in rows] == ["eager", "graph"]
    assert not [row for row in rows if "problem" in row], rows
    assert len(alive) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_why_no_kernel_runs_is_one_line() -> None:
    assert re.match(r"(AssertionError|RuntimeError): [^\n]+$", gpu_tools.kernel_obstacle() or "")


@pytest.mark.slow
def test_splits_and_stages_in_the_interpreter(tmp_path: Path) -> None:
    triton = pytest.importorskip("triton", reason="triton is not installed")
    if triton.__version__.startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("this triton's interpreter needs numpy < 2.4")
    path = tmp_path / "report.json"
    # Where other programs share the cores, a minute is too short for all rows.
    options = ("--device", "cpu", "--parts", "splits,stages", "--minutes", "4")
    done = bench_gpu(*options, "--shapes", "2x64x9", "--output", str(path), TRITON_INTERPRET="1")
    report = json.loads(path.read_text())
    splits = report["splits"]
    assert "error" not in splits, splits
    assert done.returncode == 0, done.stdout
    assert [row["splits"] for row in splits["rows"][:7]] == list(gpu_tuning.SPLITS)
    assert "error" not in report["stages"], report["stages"]
    rows = report["stages"]["rows"]
    assert [row["kib_ahead"] for row in rows[:4]] == list(gpu_tuning.KIB_AHEAD)
    assert all(len(row["stages"]) == 2 for row in rows)


def test_without_a_device_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    done = bench_gpu("--output", str(path), **hidden)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"No CUDA or ROCm device: [^\n]+\.\n", done.stderr)
    assert not path.exists()


@pytest.mark.slow
def test_a_failing_kernel_test_is_named_and_decides_the_exit_code(tmp_path: Path) -> None:
    failing = write_tests(tmp_path / "test_ours.py", "assert True", "assert 2 == 3, 'two is three'")
    path = tmp_path / "report.json"
    options = ("--device", "cpu", "--parts", "tests,copies", "--shapes", "2x16x9")
    done = bench_gpu(*options, "--tests", str(failing), "--output", str(path))
    report = json.loads(path.read_text())
    assert done.returncode == 1
    assert report["problems"] == ["tests: 1 failed"]
    assert (report["tests"]["passed"], report["tests"]["failed"]) == (1, 1)
    (failure,) = report["tests"]["failures"]
    assert failure["test"].endswith("test_ours::test_1")
    assert "two is three" in failure["message"]
    assert len(report["copies"]["rows"]) == 2, "the parts after it have run"


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = bench_gpu("--device", "cpu", "--output", str(tmp_path / "file" / "report.json"))
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*report\.json cannot be written: [\w ]+\.\n", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_abort_loses_no_finished_case(tmp_path: Path, how: int) -> None:
    path = tmp_path / "report.json"
    shapes = ",".join(["20x1024x49"] * 50)
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--parts", "times"]
    command += ["--shapes", shapes, "--output", str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    ) as process:
        try:
            until = time.monotonic() + 60
            while not (path.exists() and "rows" in path.read_text()) and time.monotonic() < until:
                time.sleep(0.2)
            process.send_signal(how)
            code = process.wait(20)
        finally:
            process.kill()
    report = json.loads(path.read_text())
    assert len(report["times"]["rows"]) >= 6
    assert report["complete"] is False
    assert (code, report["problems"]) == ((1, ["interrupted"]) if how == 2 else (-9, []))


@pytest.mark.slow
@pytest.mark.parametrize("on_the_path", [True, False])
def test_sigterm_ends_what_was_started_and_keeps_the_parts_before(
    tmp_path: Path, on_the_path: bool
) -> None:
    """It is what ``timeout`` sends, to the process and to its group, so that it comes twice."""
    path, number = tmp_path / "report.json", tmp_path / "pid"
    endless = tmp_path / "bin" / "ncu"
    endless.parent.mkdir()
    endless.write_text(
        f"#!/bin/sh\necho $$ > {number}.new; mv {number}.new {number}\nexec sleep 600\n"
    )
    endless.chmod(0o755)
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--shapes", "2x16x9"]
    command += ["--parts", "copies,traffic", "--output", str(path)]
    where = {"PATH": f"{endless.parent}:{os.environ['PATH']}"}
    if not on_the_path:
        where = {"CUDA_HOME": str(tmp_path)}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | where,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            until = time.monotonic() + 60
            while not number.exists() and time.monotonic() < until:
                time.sleep(0.1)
            before = json.loads(path.read_text())
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)
    report = json.loads(path.read_text())
    assert report["copies"] == before["copies"]
    assert (report["complete"], report["problems"]) == (False, ["interrupted"])
    assert said.splitlines()[0] == f"report: {path}"
    assert said.splitlines()[-2:] == ["problem: interrupted", str(path)]
    assert process.returncode == 1


def test_a_program_has_ended_when_what_runs_it_is_interrupted(tmp_path: Path) -> None:
    """Killed alone, it would be there for a moment, and for its parent to ask how it ended."""
    number = tmp_path / "pid"

    def interrupt(number: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code.co_name != "communicate":
            frame = frame.f_back
        if frame is not None:  # the program is waited for
            signal.signal(number, signal.SIG_IGN)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    asking = f"echo $$ > {number}; while kill -USR1 {os.getpid()}; do sleep 0.1; done"
    try:
        with pytest.raises(KeyboardInterrupt):
            gpu_tools.run(["sh", "-c", asking], 60)
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)


@pytest.mark.slow
def test_tests_that_take_too_long_are_interrupted_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "processes", lambda device: 1)
    slow = write_tests(tmp_path / "test_ours.py", "assert True", "time.sleep(600)")
    for deadline in (8, 60):  # on a busy machine pytest may not have begun after 8 s
        run = a_run(tmp_path)._replace(tests=str(slow))
        run.part.deadline = deadline
        gpu.tests(run)
        assert run.out["finished"] is False
        assert run.out["seconds"] < deadline + gpu_tools.GRACE
        if run.out["passed"]:
            break
    assert run.out["passed"] == 1
    (problem,) = run.report.problems
    assert re.fullmatch(r"times: interrupted after \d+ s: not all .*test_ours::test_0", problem)


@pytest.mark.slow
def test_processes_share_the_tests(tmp_path: Path) -> None:
    ours = write_tests(tmp_path / "test_ours.py", "assert True", "assert False", "assert 1 > 2")
    for processes in (1, 2, 5):  # of five, two have none
        found = gpu_tools.kernel_tests(str(ours), 100, processes)
        failed = sorted(failure["test"].rpartition("::")[2] for failure in found["failures"])
        assert (found["passed"], failed) == (1, ["test_1", "test_2"])
        assert (found["exit_code"], found["finished"], found["last"]) == (1, True, [])


@pytest.mark.slow
def test_a_file_that_cannot_be_imported_is_counted_once_and_the_others_run(tmp_path: Path) -> None:
    write_tests(tmp_path / "test_ours.py", "assert True", "assert False", "assert True")
    (tmp_path / "test_broken.py").write_text("import no_such_module\n")
    skipped = "import pytest\npytest.importorskip('no_such_module')\n"
    (tmp_path / "test_skipped.py").write_text(skipped)
    for processes in (1, 3):
        found = gpu_tools.kernel_tests(str(tmp_path), 100, processes)
        counts = [found[name] for name in ("passed", "failed", "errors", "skipped")]
        assert counts == [2, 1, 1, 1]
        (broken, failed) = sorted(found["failures"], key=lambda failure: failure["test"])
        assert broken["test"].endswith("test_broken")
        assert "collection failure" in broken["message"]
        assert "No module named 'no_such_module'" in broken["message"]
        assert failed["test"].endswith("test_1")
        assert (found["exit_code"], found["finished"]) == (1, True)


def test_as_many_processes_as_there_are_cores() -> None:
    assert gpu.processes("cpu") == len(os.sched_getaffinity(0))


@pytest.mark.slow
def test_of_programs_at_once_only_those_that_do_not_end_are_ended() -> None:
    done, long = "exit(3)", "import time; time.sleep(60)"
    ran = gpu_tools.run_at_once([[sys.executable, "-c", text] for text in (done, long, done)], 15)
    assert [(one.code, one.in_time) for one in ran[::2]] == [(3, True)] * 2
    assert (ran[1].code, ran[1].in_time) == (-signal.SIGINT, False)


@pytest.mark.slow
def test_a_program_that_does_not_end_is_ended() -> None:
    stubborn = "import signal, time; signal.signal(2, lambda *_: exit(7)); print(1, flush=True)"
    ran = gpu_tools.run([sys.executable, "-c", f"{stubborn}; time.sleep(60)"], 2)
    assert ran == (7, "1\n", False)
    assert gpu_tools.run([sys.executable, "-c", "print(2); exit(3)"], 20) == (3, "2\n", True)


@pytest.mark.slow
def test_tools_run_the_steps_and_say_what_they_did_not_get() -> None:
    # env runs a program as it is: it takes the place of a tool that watches nothing.
    steps = gpu.steps_command("profile", "cpu", ((2, 16, 9),))
    ran = gpu_tools.run(["env", *steps], 60)
    assert ran == (0, f"{gpu.DONE}\n", True)
    for task in ("watch", "compile"):
        ran = gpu_tools.run(["env", *gpu.steps_command(task, "cpu", ((2, 16, 9),))], 60)
        assert ran == (0, f"{gpu.DONE}\n", True)
    assert "is not on the path" in gpu_tools.profile(steps, 60, name="no-such-ncu")["obstacle"]
    assert (
        "is not on the path"
        in gpu_tools.sanitize("memcheck", steps, "", 60, "no-such-tool")["obstacle"]
    )
    # It knows no option of theirs, writes no log, and ends with 125.
    assert "(exit code 125)" in gpu_tools.profile(steps, 60, name="env")["obstacle"]
    found = gpu_tools.sanitize("memcheck", steps, gpu.DONE, 60, name="env")
    assert found["obstacle"].startswith("memcheck gave no summary (exit code 125)")
    assert found["target_ended"] is False


def test_time_is_shared_and_what_is_left_goes_on() -> None:
    now = [100.0]
    budget = Budget(60, {"a": 1, "b": 2, "c": 3}, clock=lambda: now[0])
    assert budget.begin("a", list).left() == pytest.approx(10)
    now[0] = 104
    # 56 seconds are left for 2 and 3.
    assert budget.begin("b", list).left() == pytest.approx(56 * 2 / 5)
    now[0] = 170
    assert budget.begin("c", list).left() == 0


def test_a_part_begins_what_will_end_in_time_and_names_the_rest() -> None:
    now, saved = [0.0], []
    part = Part("times", 10, lambda: now[0], lambda: saved.append(now[0]))
    done = []
    for case in part.over(["a", "b", "c", "d"]):
        now[0] += 4
        done.append(case)
    # After two cases 8 of 10 seconds are gone, and another takes 4.
    assert done == ["a", "b"]
    assert part.skipped == ["c", "d"]
    assert saved == [4, 8]


def test_a_report_is_replaced_as_a_whole(tmp_path: Path) -> None:
    report = Report(tmp_path / "deep" / "report.json", {"rows": [1]})
    report.save()
    report.problems.append("a")
    report.data["rows"].append(float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        report.save()
    assert json.loads(report.path.read_text()) == {"rows": [1], "problems": []}
    assert [p.name for p in report.path.parent.iterdir()] == ["report.json"]
    with pytest.raises(InputError, match="cannot be written"):
        Report(report.path / "below.json", {}).save()


def test_what_is_wrong_is_not_timed_and_is_a_problem(tmp_path: Path) -> None:
    case, right = Case((2, 16, 9), "fp32", "nchw"), torch.tensor([1.0, 2.0])
    run = a_run(tmp_path)

    def rows(provider: str, *given: float) -> dict[str, Any]:
        found = torch.tensor(given)
        operation = Operation(provider, "step", lambda: lambda: (found,), (right.double(),))
        (row,) = gpu.time_operation(operation, case, run)
        run.add(row)
        return row

    assert rows("ours", 1, 2 + 1e-6)["median_us"] > 0
    # 0.25 in 2 is an eighth.
    assert rows("ours", 1, 2.25)["error"] == 0.125
    assert rows("plain mean", 1, float("nan"))["error"] is None
    assert len(run.out["rows"]) == 3
    assert run.report.problems == [
        "times: 2x16x9 fp32 nchw 2 ours step eager: wrong: relative error 1.2e-01 above 1.0e-05",
        "times: 2x16x9 fp32 nchw 2 plain mean step eager: wrong: relative error nan above 1.0e-04",
    ]
    assert [("median_us" in row) for row in run.out["rows"]] == [True, False, False]


@pytest.mark.parametrize(("provider", "kind"), [("ours", "problem"), ("branches", "obstacle")])
def test_what_cannot_run_ends_nothing(tmp_path: Path, provider: str, kind: str) -> None:
    def make() -> Any:
        raise RuntimeError("out of\nmemory")

    operation = Operation(provider, "step", make, ())
    (row,) = gpu.time_operation(operation, Case((2, 16, 9), "bf16", "nchw"), a_run(tmp_path))
    assert row[kind] == "RuntimeError: out of memory"


def test_share_of_the_copy(tmp_path: Path) -> None:
    case = Case((2, 16, 9), "bf16", "nchw")
    run = a_run(tmp_path, copies={"large": {"bytes_per_second": 1e6}})
    for operation in operations(inputs_of(case, "cpu"))[:3]:
        (row,) = gpu.time_operation(operation, case, run)
        # 576 bytes: once in forward, F and dF in backward, F twice and dF in a step.
        floor_us = {"forward": 576, "backward": 1152, "step": 1728}[row["phase"]]
        assert row["of_copy"] == pytest.approx(floor_us / row["median_us"], abs=1e-4)


def test_the_most_telling_cases_come_first() -> None:
    found = cases(SHAPES)
    assert len(found) == len(set(found)) == 5 * 2 * 2 + 2
    assert {(c.dtype, c.layout, c.classes) for c in found[:5]} == {("bf16", "channels_last", 2)}
    assert [c.classes for c in found[5:7]] == [16, 1000]
    assert found[1].features_bytes == 20 * 2048 * 49 * 2
    assert str(found[5]) == "20x2048x49 bf16 channels_last K=16"


@pytest.mark.parametrize("classes", [2, 16])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_inputs_are_those_of_mixed_precision(layout: str, classes: int) -> None:
    inputs = inputs_of(Case((3, 8, 16), "bf16", layout, classes), "cpu")
    assert inputs.features.shape == (3, 8, 4, 4)
    assert inputs.features.dtype == torch.bfloat16
    order = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert inputs.features.is_contiguous(memory_format=order)
    assert (inputs.weight.dtype, inputs.weight.shape) == (torch.float32, (classes, 8))
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in inputs.leaves)
    assert int(inputs.target.max()) < classes


@pytest.mark.parametrize("shapes", ["20x2048", "2x16x8", "0x16x9", "2x16x9,", "axbxc"])
def test_shapes_that_are_none_are_refused(shapes: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not BxCxHW"):
        gpu.shapes_of(shapes)


def test_parts_run_in_their_order_and_one_that_does_not_exist_is_refused() -> None:
    assert gpu.parts_of("times,copies") == ["copies", "times"]
    with pytest.raises(ArgumentTypeError, match="no part 'time'; there are tests, compilation"):
        gpu.parts_of("times,time")


def test_some_parts_alone_do_not_replace_the_report_of_others() -> None:
    names = [gpu.usual_path("h100", parts).name for parts in ([*gpu.PARTS], ["copies", "times"])]
    assert names == ["gpu-h100.json", "gpu-h100-copies-times.json"]
