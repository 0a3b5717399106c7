"""The plan for millions of images, computed by hand for round figures."""

import math

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.plan import FORWARD, Cluster, stages

from ..launching import CHECKOUT, run

MICROSECONDS = {
    "table": 20,
    "copies": 80,
    "decode 512": 4800,
    "load": 50,
    "augment": 960,
    "features": 300,
}
ROWS = [
    {"phase": phase, "images": str(images), "CPU seconds": str(images * microseconds / 1e6)}
    for phase, microseconds in MICROSECONDS.items()
    for images in (1000, 100)
]


def test_a_vit_l_takes_what_torch_counts() -> None:
    with torch.device("meta"):
        network = timm.create_model("vit_large_patch14_clip_224", num_classes=0)
        images = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        network(images)
    assert counter.get_total_flops() == pytest.approx(FORWARD, rel=0.005)


@pytest.mark.parametrize("nodes", [1, 4])
def test_each_part_takes_what_its_slowest_resource_does(nodes: int) -> None:
    cluster = Cluster(images=1_000_000, nodes=nodes, share=FORWARD / 989e12 * 1000)
    assert cluster.rate == pytest.approx(1000)
    listed, decoded, features, verified, head, tuned = stages(cluster, ROWS)
    assert listed.seconds == {"one core": pytest.approx(100)}
    assert decoded.bottleneck == "cores"
    assert decoded.duration == pytest.approx(50)  # on each node
    assert features.bottleneck == "one GPU"
    assert features.duration == pytest.approx(1000)
    gigabytes = 525.3
    assert verified.bottleneck == "disk"
    assert verified.duration == pytest.approx(8 * gigabytes / 10, rel=1e-3)
    assert head.bottleneck == "disk"
    assert head.duration == pytest.approx(30 * gigabytes / 10 / nodes, rel=1e-3)
    assert head.seconds["one core"] == pytest.approx(30 * 300 / 8 / nodes)
    assert tuned.bottleneck == "GPUs"
    assert tuned.duration == pytest.approx(3000 / 8 / nodes)
    assert math.isclose(tuned.seconds["cores"], 960 / 96 / nodes)


def test_figures_of_ones_own_go_in_by_flags() -> None:
    """A slow GPU is the bottleneck of the features, and is printed as an assumption."""
    done = run("-m", "bench.plan", "--peak", 100, "--read", 3, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    assert "peak 100.0, share 0.35, read 3.0" in done.stdout
    assert "Assumed, as no GPU has run it" in done.stdout
    assert "features of ViT-L, once: 3.9 h (one GPU 3.9 h" in done.stdout
