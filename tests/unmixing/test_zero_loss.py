"""The learnt zero-loss peak and the band gap over it, against known ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_smarttem.bench.parts import unmixing_zlp as sets
from napari_smarttem.schema import BadInput, Cancelled
from napari_smarttem.unmixing import prepare, zlp
from napari_smarttem.unmixing.zlp_gap import band_gap

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def truth() -> sets.LowLoss:
    return sets.low_loss(900, (16, 16), 1024, gap_ev=3.0)


@pytest.fixture(scope="module")
def learnt(truth):
    return zlp.fit_zero_loss(truth.frame, replicas=12, groups=3, steps=50)


def test_peak_is_that_of_the_truth_where_there_is_no_loss_yet(truth, learnt) -> None:
    energy, core = learnt.energy_ev, slice(*learnt.core)
    peak = truth.peak / truth.peak[core].sum()
    free = (energy > -0.5) & (energy < learnt.ends_ev.min())
    np.testing.assert_allclose(learnt.band()[1][free], peak[free], rtol=0.25)
    assert learnt.width_ev == pytest.approx(truth.width_ev, rel=0.1)


def test_band_opens_where_the_peak_is_a_guess(learnt) -> None:
    low, median, high = learnt.band()
    assert (low <= median).all()
    assert (median <= high).all()
    width = (high - low) / median
    inside, outside = (int(np.argmin(np.abs(learnt.energy_ev - e))) for e in (0.6 * learnt.ends_ev.min(), 8.0))
    assert width[outside] > 3 * width[inside]
    np.testing.assert_allclose(learnt.band(float(learnt.thickness[1])).shape, (3, len(low)))


def test_gap_is_found_to_a_tenth(truth, learnt) -> None:
    gap = band_gap(learnt, exponent=0.5)
    assert gap.value_ev == pytest.approx(truth.gap_ev, abs=0.1)
    assert gap.low_ev <= gap.value_ev <= gap.high_ev
    assert band_gap(learnt).exponent == 0.5


def test_step_is_recorded_and_undone(truth) -> None:
    prepared = prepare.Preparation(truth.frame)
    left = prepared.apply("zero_loss", replicas=6, groups=2, onset_ev=2.6)
    top = int(np.argmin(np.abs(truth.frame.coordinates("energy_loss"))))
    before = np.asarray(truth.frame.data, dtype=float)
    assert abs(left.data[..., top].sum()) < 0.05 * before[..., top].sum()
    far = truth.frame.coordinates("energy_loss") > 10
    assert left.data[..., far].sum() == pytest.approx(before[..., far].sum(), rel=0.02)
    kept = json.loads(json.dumps(dict(left.metadata)))
    assert kept["preparation"] == [{"step": "zero_loss", "replicas": 6, "groups": 2, "onset_ev": 2.6}]
    assert len(kept["zero_loss"]["low"]) == left.shape[-1]
    assert prepared.undo()
    assert prepared.frame is truth.frame


def test_what_cannot_be_learnt_is_one_sentence(truth) -> None:
    frame = truth.frame
    with pytest.raises(BadInput, match="at 0 eV"):
        zlp.fit_zero_loss(prepare.crop_energy(frame, first_ev=5, last_ev=20))
    moved = frame.axes[-1].model_copy(update={"offset": frame.axes[-1].offset + 1.5})
    with pytest.raises(BadInput, match="align"):
        zlp.fit_zero_loss(frame.with_data(frame.data, axes=(*frame.axes[:2], moved)))
    with pytest.raises(BadInput, match="inside of the zero-loss peak"):
        zlp.fit_zero_loss(frame, onset_ev=0.05)
    with pytest.raises(BadInput, match="four replicas"):
        zlp.fit_zero_loss(frame, replicas=1)
    peaks = np.random.default_rng(0).poisson(np.broadcast_to(truth.peak, frame.shape))
    with pytest.raises(BadInput, match="No loss"):
        zlp.fit_zero_loss(frame.with_data(peaks))


def test_learning_can_be_stopped(truth) -> None:
    def stop(fraction: float, _word: str) -> None:
        if fraction > 0.1:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        zlp.fit_zero_loss(truth.frame, replicas=4, groups=2, report=stop)
