"""The measurement of loaders: all load the same pictures, and a bar is judged by its ratio."""

import numpy as np
import pytest

from bench import loader


@pytest.mark.slow
def test_all_loaders_load_the_same_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """``measure`` compares them before it times them."""
    monkeypatch.setattr(loader, "BATCH", 2)
    found = dict(loader.measure(256, "png", 4, rounds=1))
    shared = {"ours, cold", "ours, warm", "timm", "torchvision"}
    assert found[False].keys() == shared | {"memory map"}
    assert found[True].keys() == shared | {"ours, before"}
    monkeypatch.setattr(
        loader.Decoded, "__getitem__", lambda *_: (loader.torch.zeros(3, 224, 224), 0)
    )
    with pytest.raises(AssertionError, match="torchvision"):
        next(loader.measure(256, "png", 4, rounds=1))


def test_a_bar_is_held_by_the_ratio_of_times(capsys: pytest.CaptureFixture[str]) -> None:
    without = {"memory map": 2.0, "ours, warm": 4.0, "timm": 36.0, "ours, cold": 45.0}
    five = {"ours, warm": 3.0, "ours, before": 10.0}
    measured = {
        (kind, augmented): {name: np.full(3, value) for name, value in seconds.items()}
        for kind in loader.FILES
        for augmented, seconds in ((False, without), (True, five))
    }
    ratios = [row["median"] for row in loader.judged(measured)]
    assert ratios == [0.5, 0.5, 0.5, 9.0, 9.0, 0.3, 0.3, 0.3, 1.25, 1.25, 1.25]
    verdicts = [line.split(":")[0].strip() for line in capsys.readouterr().out.splitlines()[1::2]]
    assert verdicts == ["held"] * 4 + ["NOT HELD"] + ["held"] * 3 + ["NOT HELD"] * 3
