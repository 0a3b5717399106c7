"""Batches: each image once, weights that add up, the same for any number of processes."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from focus.training.batches import BatchPlan, MicroBatch

LABELS = [0] * 30 + [1] * 13


def ranks(**settings: Any) -> list[BatchPlan]:
    return [BatchPlan(LABELS, rank=rank, **settings) for rank in range(settings["processes"])]


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "processes"), [(1, 3, 2), (4, 1, 5), (4, 3, 3), (50, 1, 2)]
)
def test_each_image_counts_once_and_alike(
    batch_size: int, accumulation: int, processes: int
) -> None:
    plans = ranks(batch_size=batch_size, accumulation=accumulation, processes=processes)
    epochs = [plan.epoch(3) for plan in plans]
    assert {len(epoch) for epoch in epochs} == {plans[0].steps}
    seen: Counter[int] = Counter()
    for step in zip(*epochs, strict=True):
        # All processes go through as many batches, or one would wait for the others for ever.
        assert len({len(batches) for batches in step}) == 1
        assert all(b.last == (b is batches[-1]) for batches in step for b in batches)
        total = sum(b.counted for batches in step for b in batches)
        for batch in (b for batches in step for b in batches):
            # Only a batch of two, which has none to give, takes in what is left.
            assert 0 <= batch.counted <= batch_size + 2 * (batch_size in (2, 3))
            assert len(batch.rows) == max(batch.counted, 1)
            assert batch.weight == batch.counted * processes / total
            seen.update(batch.rows[: batch.counted])
        # The processes' gradients are averaged: the weights' mean over them adds up to 1.
        weight = sum(b.weight for batches in step for b in batches) / processes
        assert weight == pytest.approx(1, abs=1e-15)
    assert seen == Counter(range(len(LABELS)))


def test_processes_and_accumulation_take_the_same_images_for_a_step() -> None:
    alone = BatchPlan(LABELS, batch_size=12).epoch(1)
    for processes, accumulation in ((2, 1), (3, 2), (1, 4), (2, 3)):
        size = 12 // processes // accumulation
        plans = ranks(batch_size=size, accumulation=accumulation, processes=processes)
        for step_number, step in enumerate(zip(*(plan.epoch(1) for plan in plans), strict=True)):
            rows = [row for batches in step for b in batches for row in b.rows[: b.counted]]
            assert sorted(rows) == sorted(alone[step_number][0].rows)


def test_an_epoch_by_hand() -> None:
    plan = BatchPlan([0] * 7, batch_size=2, accumulation=2)
    order = plan.order(0).tolist()
    assert plan.epoch(0) == [
        [
            MicroBatch(order[:2], [0] * 2, 2, 2, 0.5, False),
            MicroBatch(order[2:4], [0] * 2, 2, 2, 0.5, True),
        ],
        [MicroBatch(order[4:], [0] * 3, 3, 3, 1.0, True)],
    ]
    assert plan.images_per_step == 4
    assert BatchPlan([0] * 9, batch_size=5, accumulation=3, processes=2).images_per_step == 30
    # One image for two processes: the second runs it for company.
    second = BatchPlan([0] * 3, batch_size=1, processes=2, rank=1)
    last = second.epoch(0)[-1]
    assert last == [MicroBatch([int(second.order(0)[2])], [0], 0, 1, 0.0, True)]


def test_an_image_that_is_drawn_again_is_told_from_its_first() -> None:
    plans = ranks(batch_size=8, accumulation=2, processes=2, sampling="balanced")
    steps = [step for plan in plans for step in plan.epoch(3)]
    batches = [batch for step in steps for batch in step]
    drawn = [pair for batch in batches for pair in zip(batch.rows, batch.times_before, strict=True)]
    times = Counter(row for row, _ in drawn)
    assert max(times.values()) > 2
    assert sorted(drawn) == sorted((row, n) for row in times for n in range(times[row]))


def test_a_single_image_is_no_batch() -> None:
    """A norm has no statistics of it: 1821 images in batches of 20 leave one."""

    def sizes(images: int, batch_size: int, **more: int) -> list[list[int]]:
        plan = BatchPlan([0] * images, batch_size, **more)
        assert plan.steps == len(plan.epoch(0))
        return [[len(batch.rows) for batch in step] for step in plan.epoch(0)]

    assert sizes(1821, 20) == [[20]] * 90 + [[19], [2]]
    assert sizes(1822, 20) == [[20]] * 91 + [[2]]
    # Of a step of three batches, the last one; and one that is a step of its own.
    assert sizes(21, 4, accumulation=3) == [[4, 4, 4], [4, 3, 2]]
    assert sizes(13, 4, accumulation=3) == [[4, 4, 3], [2]]
    # Three images for two processes, then four.
    assert [sizes(19, 4, processes=2, rank=rank) for rank in (0, 1)] == [
        [[4], [4], [2]],
        [[4], [3], [2]],
    ]
    assert sizes(20, 4, processes=2, rank=1) == [[4], [4], [2]]
    # A batch that has none to give takes it in.
    assert sizes(5, 2) == [[2], [3]]
    # One of three has one to give.
    assert sizes(7, 3) == [[3], [2], [2]]
    # What was asked for, and all that there is.
    assert sizes(3, 1) == [[1]] * 3
    assert sizes(1, 4) == [[1]]
    assert sizes(0, 4) == []


def test_an_epoch_is_entered_at_any_step() -> None:
    plan = BatchPlan(LABELS, batch_size=4, accumulation=2, seed=5)
    whole = plan.epoch(2)
    assert [plan.epoch(2, first) for first in range(plan.steps + 1)] == [
        whole[first:] for first in range(plan.steps + 1)
    ]


def test_balanced_sampling_draws_each_class_as_often() -> None:
    plan = BatchPlan(LABELS, batch_size=4, sampling="balanced")
    drawn = np.concatenate([plan.order(epoch) for epoch in range(200)])
    assert len(drawn) == 200 * len(LABELS)
    share = np.asarray(LABELS)[drawn].mean()
    assert abs(share - 0.5) < 4 * 0.5 / len(drawn) ** 0.5
    # Within a class each image is as likely as another.
    counts = np.bincount(drawn, minlength=len(LABELS))
    for label in (0, 1):
        counts_of_class = counts[np.asarray(LABELS) == label]
        assert abs(counts_of_class / counts_of_class.mean() - 1).max() < 0.3
