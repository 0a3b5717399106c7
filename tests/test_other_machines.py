"""What Windows, macOS and Apple's GPUs lack, by stand-ins: none of them has run this."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from focus.data import manifest
from focus.data.dataset import FaceDataset, RowIndex, load_batches, loader
from focus.data.perturbations import perturbations
from focus.model.detector import Detector

from .launching import python, write_faces
from .training.trainers import few_faces, trainer

WINDOWS = """
import os, signal, sys
# Libraries that ask for the platform, which stay as they are on Linux.
import accelerate, filelock, joblib, matplotlib.pyplot, threadpoolctl, timm, types
import torch.utils.tensorboard
threadpoolctl.sys = types.SimpleNamespace(**vars(sys))

import fcntl
sys.modules["fcntl"] = None
for name in ("SIGHUP", "SIGUSR1", "pthread_sigmask"):
    delattr(signal, name)
del os.sched_getaffinity
begin, sync = os.open, os.fsync
def opened(path, flags, *rest, **named):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return begin(path, flags, *rest, **named)
def synced(descriptor):
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")
    sync(descriptor)
os.open, os.fsync, sys.platform = opened, synced, "win32"

from focus.__main__ import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_run_as_on_windows(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces", 24)
    words = ["train", "--data", "faces", "--recipe", "demo", "--epochs", "1", "--name", "run"]
    out = python("-c", WINDOWS, *words, "--workers", "0", "--threads", "1", cwd=tmp_path)
    assert "all results" in out


def test_a_manifest_of_windows_is_read_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sep", "\\")
    assert manifest._below(r"C:\data\real\1.png", "C:\\data\\") == "real/1.png"
    assert manifest._below(r"D:\other\1.png", "C:\\data\\") == r"D:\other\1.png"
    monkeypatch.undo()
    assert manifest._below(r"/data/a\b.png", "/data/") == r"a\b.png"


@pytest.mark.slow
def test_spawned_workers_load_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS and Windows; also of the epoch that was set after they began."""
    images = few_faces(tmp_path)[:6]
    detector = Detector(image_size=32)
    faces = FaceDataset(
        manifest.Manifest(images),
        detector.preprocessing,
        augment=("crop", "jpeg"),
        perturb=next(iter(perturbations(["jpeg"], side=32))),
    )
    monkeypatch.setattr("focus.data.dataset.sys.platform", "darwin")
    batches: list[list[RowIndex]] = [[0, 1, 2], [3, 4, 5]]
    spawned = loader(faces, batches, 1, pinned=False, persistent=True)
    monkeypatch.undo()
    assert spawned.multiprocessing_context is None
    spawned.multiprocessing_context = "spawn"
    for epoch in (0, 1):
        faces.set_epoch(epoch)
        for batch, rows in zip(load_batches(spawned), batches, strict=True):
            assert all(map(torch.equal, batch, faces[rows]))


class WithoutFloat64(TorchDispatchMode):
    """Make torch's meta device one as Apple's: it has no float64, and all its values are 0."""

    operations = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        leaves = tree_leaves((args, kwargs))
        (first, *_) = [*(leaf for leaf in leaves if isinstance(leaf, Tensor)), None]
        name = operation.overloadpacket.__name__
        if first is not None and first.is_meta and name in ("item", "_local_scalar_dense"):
            return first.dtype == torch.bool  # all is finite
        if first is not None and first.is_meta and torch.device("cpu") in leaves:
            (dtype, *_) = [*(leaf for leaf in leaves if isinstance(leaf, torch.dtype)), first.dtype]
            return torch.full(first.shape, dtype == torch.bool, dtype=dtype)
        made = operation(*args, **kwargs or {})
        on_device = [
            tensor for tensor in tree_leaves(made) if isinstance(tensor, Tensor) and tensor.is_meta
        ]
        self.operations += bool(on_device)
        if torch.float64 in [tensor.dtype for tensor in on_device]:
            raise TypeError(f"{operation} makes a float64, which the device does not have")
        return made


@pytest.mark.slow
def test_no_float64_reaches_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    fused = sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices"
    monkeypatch.setattr(*fused, lambda: ["cpu", "meta"])  # Apple's is one of them
    AcceleratorState._reset_state(reset_partial_state=True)
    settings = {"opt": "adamw", "clip_grad": 1.0, "class_weight": "balanced", "epochs": 1}
    settings |= {"batch_size": 35}
    try:
        with WithoutFloat64() as device:
            run = trainer(few_faces(tmp_path), tmp_path / "runs", Accelerator(), **settings)
            assert run.accelerator.device.type == "meta"
            run.fit()
            predictions = run.detector.predict([sample.path for sample in run.train[:2]])
        with pytest.raises(TypeError, match="float64"), WithoutFloat64():
            torch.zeros(2, device="meta").double()
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert device.operations > 500
    assert predictions.score.tolist() == [0.5, 0.5]
