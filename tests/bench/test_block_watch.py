"""The watch on the window's thread tells our calls from others', and how long the longest took."""

from __future__ import annotations

import time

import pytest

from napari_smarttem.bench.parts.block_watch import BlockWatch
from napari_smarttem.engine.review import Review
from napari_smarttem.schema import AwaitReview, Target


def test_a_call_of_ours_is_timed_and_named():
    review = Review()
    review.changed.connect(lambda _ids: time.sleep(0.15))
    review.open(AwaitReview(step_id="r", targets=(Target(target_id="a", y_nm=0.0, x_nm=0.0),)))
    with BlockWatch() as watch:
        review.approve(["a"])
    assert watch.longest_ours_s == pytest.approx(0.15, abs=0.1)
    assert "review.py" in watch.longest_ours_where
    assert watch.samples > 10


def test_somebody_elses_call_is_not_ours():
    with BlockWatch() as watch:
        time.sleep(0.15)
    assert watch.longest_ours_s == 0.0
    assert watch.longest_other_s > 0.05
