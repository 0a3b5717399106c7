"""Which backend an operation takes, why, and what is imported for it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from focus.kernels import backend, backend_for, cam_entropy, use_backend

from .interpreter import interpreter

FEATURES = torch.ones(1, 2, 2, 2)
INDEX = torch.zeros(1, dtype=torch.int64)


@pytest.fixture(autouse=True)
def no_choice_and_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_choice", "auto")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_eager_is_taken_on_a_cpu_and_the_interpreter_where_the_environment_asks_for_it() -> None:
    name, reason = backend_for(FEATURES)
    assert name == "eager"
    assert "features on cpu where Triton needs a GPU" in reason
    pytest.importorskip("triton", reason="triton is not installed")
    with interpreter():
        assert backend_for(FEATURES) == ("triton", "interpreter")
    assert backend_for(FEATURES).name == "eager"


def test_setting_lasts_and_context_ends() -> None:
    def chosen() -> str:
        return backend_for(FEATURES).name

    use_backend("reference")
    assert chosen() == "reference"
    with use_backend("eager"):
        assert chosen() == "eager"
        with use_backend("reference"):
            assert chosen() == "reference"
        assert chosen() == "eager"
    assert chosen() == "reference"
    with pytest.raises(KeyError), use_backend("eager"):
        raise KeyError
    assert chosen() == "reference"
    assert backend_for(FEATURES).reason == "asked for"
    again = use_backend("eager")
    for _ in range(2):  # a context may be entered again
        with again:
            assert chosen() == "eager"
        assert chosen() == "reference"
    with pytest.raises(ValueError, match="'cuda' is not one of auto, triton, eager, reference"):
        use_backend("cuda")


def test_triton_that_cannot_run_is_an_error_and_not_another_backend() -> None:
    weight = torch.ones(2, 2)
    error = pytest.raises(RuntimeError, match=r"triton cannot run: .*on cpu")
    with use_backend("triton"), error:
        cam_entropy(FEATURES, weight, INDEX)


def test_grid_that_no_kernel_holds_is_said_and_warned_of_on_a_gpu() -> None:
    features = torch.ones(1, 1, 64, 65)
    sentence = "the kernels take at most 4096 cells: pool the features first"
    with interpreter():
        assert backend_for(features[..., 1:]) == ("triton", "interpreter")
        assert backend_for(features) == ("eager", sentence)
        with use_backend("triton"), pytest.raises(RuntimeError, match=f"cannot run: {sentence}$"):
            cam_entropy(features, torch.ones(2, 1), INDEX)
    backend._remembered.cache_clear()
    with FakeTensorMode():  # of a GPU that need not be there
        features = torch.empty(1, 1, 64, 65, device="cuda")
        with pytest.warns(
            RuntimeWarning, match="in eager torch on the GPU: the kernels take at most"
        ):
            assert backend_for(features).name == "eager"


def run_python(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    unset = ("TRITON_INTERPRET", "CC", "FOCUS_BACKEND")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | more
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(
        command, env=environment, check=False, text=True, capture_output=True, timeout=300
    )


@pytest.mark.slow
def test_everything_but_triton_runs_where_triton_cannot_be_imported() -> None:
    # The first call of any registered operator makes torch itself import triton, if it can.
    ended = run_python("""
        import sys
        sys.modules["triton"] = None
        import torch
        from focus.kernels import backend_for, cam_entropy, class_activation, focus_head
        from focus.kernels import use_backend

        features = torch.ones(1, 2, 2, 2, requires_grad=True)
        weight, index = torch.ones(2, 2), torch.zeros(1, dtype=torch.int64)
        for name in ("auto", "eager", "reference"):
            with use_backend(name):
                class_activation(features, weight, None, [0])
                cam_entropy(features, weight, index)[1].sum().backward()
                focus_head(features, weight, None, index, focus_weight=1.0).loss.backward()
        print(*backend_for(features))
    """)
    assert ended.stdout.strip() == "eager triton is not installed", ended.stderr


@pytest.mark.slow
def test_without_a_compiler_eager_is_taken_with_a_warning(tmp_path: Path) -> None:
    """Triton compiles its driver; that there is a GPU is all that is made up here."""
    pytest.importorskip("triton", reason="triton is not installed")
    ended = run_python(
        """
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode
        from focus.kernels import backend_for, use_backend

        torch.cuda.is_available = lambda: True
        torch.version.hip = None
        with FakeTensorMode():
            features = torch.empty(1, 8, 2, 2, device="cuda")
        print(*backend_for(features))
        try:
            with use_backend("triton"):
                backend_for(features)
        except RuntimeError as error:
            print(error)
        """,
        PATH=str(tmp_path),
        TRITON_CACHE_DIR=str(tmp_path),
        TRITON_LIBCUDA_PATH=str(tmp_path),
    )
    reason = "RuntimeError: Failed to find C compiler"
    assert ended.returncode == 0, ended.stderr
    taken, refused = ended.stdout.splitlines()
    # A clause of one sentence, though Triton says two.
    assert taken == f"eager {reason}"
    assert refused == f"backend triton cannot run: {reason}"
    assert f"focus.kernels runs in eager torch on the GPU: {reason}" in ended.stderr


def test_the_environment_chooses_until_a_call_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_choice", None)
    assert backend_for(FEATURES).name == "eager"
    monkeypatch.setenv("FOCUS_BACKEND", "reference")
    assert backend_for(FEATURES) == ("reference", "asked for")
    with use_backend("auto"):
        assert backend_for(FEATURES).name == "eager"
    assert backend_for(FEATURES).name == "reference"
    monkeypatch.setenv("FOCUS_BACKEND", "cuda")
    sentence = "^FOCUS_BACKEND='cuda' is not one of auto, triton, eager, reference$"
    with pytest.raises(ValueError, match=sentence):
        backend_for(FEATURES)
