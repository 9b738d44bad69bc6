"""Single clicks, proposals and pictures of aberrations: physics and bookkeeping, without a window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.alignment import click, reading
from napari_smarttem.alignment.pictures import phase_plate, probe, through_aperture
from napari_smarttem.alignment.proposal import carried, nominal, propose
from napari_smarttem.alignment.reading import Reading, after_correction_mrad, half_angle_mrad, tolerances
from napari_smarttem.alignment.targets.steering import ControlState
from napari_smarttem.physics.aberrations import ESTIMATED, quarter_pi_angle_mrad, units_of
from napari_smarttem.schema import (
    Axis,
    BadInput,
    Field2D,
    Frame,
    InstrumentFault,
    PlanContext,
    StepResult,
    electron_wavelength_nm,
)

CONTEXT = PlanContext(field=Field2D(y_nm=0, x_nm=0, height_nm=10, width_nm=10))
UNITS = {name: units_of(name) for name in ESTIMATED}


def state(value=0.0, reach=1000.0, step=300.0):
    return ControlState(value=value, minimum=-reach, maximum=reach, largest_step=step)


def a_reading(values, sigma=None, names=ESTIMATED):
    sigma = np.full(len(names), 1e-3) if sigma is None else np.asarray(sigma, dtype=float)
    covariance = tuple(tuple(map(float, row)) for row in np.diag(sigma**2))
    return Reading(
        names=names,
        units=tuple(UNITS[name] for name in names),
        values=tuple(map(float, values)),
        covariance=covariance,
        good=True,
        verdict="good",
    )


# ------------------------------------------------------------------------------------------------------------- pictures


def test_the_probe_without_aberrations_is_the_airy_disc():
    tension, alpha = 300e3, 25.0
    spot = probe({}, convergence_mrad=alpha, high_tension_v=tension, field_nm=0.3, pixels=241)
    assert spot.max() == pytest.approx(1.0, abs=1e-6)
    along = spot[120, 120:]
    minimum = np.flatnonzero((along[1:-1] < along[:-2]) & (along[1:-1] < along[2:]))[0] + 1
    first_zero = 0.6098 * electron_wavelength_nm(tension) / (alpha * 1e-3)
    assert minimum * 0.3 / 241 == pytest.approx(first_zero, abs=0.3 / 241)


def test_a_quarter_pi_of_defocus_costs_what_the_strehl_ratio_says():
    tension, alpha = 300e3, 25.0
    c1 = electron_wavelength_nm(tension) / 4 / (alpha * 1e-3) ** 2
    spot = probe({"C1": c1}, convergence_mrad=alpha, high_tension_v=tension, field_nm=0.3, pixels=121)
    # the phase runs evenly in theta^2 from 0 to pi/4: the mean of exp(i chi) over the disc is a sinc
    assert spot[60, 60] == pytest.approx((np.sin(np.pi / 8) / (np.pi / 8)) ** 2, rel=2e-3)


def test_the_phase_plate_reaches_a_quarter_pi_where_it_is_said_to():
    aberrations = {"C1": 3.0, "B2.x": 20.0, "C3": -1.0}
    angle = quarter_pi_angle_mrad(aberrations, 200e3)
    inside = phase_plate(aberrations, half_angle_mrad=angle, high_tension_v=200e3)
    theta = np.linspace(-angle, angle, len(inside))
    disc = np.hypot(theta[:, None], theta[None, :]) <= angle
    assert np.abs(inside[disc]).max() == pytest.approx(np.pi / 4, rel=0.03)


@pytest.mark.parametrize("name", ESTIMATED)
def test_a_tolerance_alone_is_a_quarter_pi_at_the_wanted_angle(name):
    limit = tolerances(300e3)[ESTIMATED.index(name)]
    assert quarter_pi_angle_mrad({name: limit * 0.999}, 300e3) >= 24.9
    assert quarter_pi_angle_mrad({name: limit * 1.02}, 300e3) < 25.0


def test_better_measurements_promise_larger_angles():
    fine = after_correction_mrad(np.diag(np.full(8, 0.1) ** 2), 300e3)
    coarse = after_correction_mrad(np.diag(np.full(8, 1.0) ** 2), 300e3)
    assert fine[0] < fine[1] < fine[2]
    assert fine[1] > coarse[1]


# ------------------------------------------------------------------------------------------------------------ proposals


@given(st.lists(st.floats(-200, 200), min_size=8, max_size=8))
def test_what_is_proposed_takes_the_aberrations_away(values):
    found = a_reading(values)
    changes = propose(found, {n: state() for n in ESTIMATED}, UNITS, nominal(found, UNITS))
    after = carried(found, nominal(found, UNITS), {one.control: one.then - one.now for one in changes})
    assert np.allclose(after.values, 0.0, atol=0.01)


def test_noise_is_not_corrected():
    found = a_reading([1.0] * 8, sigma=[10.0] * 8)
    changes = propose(found, {n: state() for n in ESTIMATED}, UNITS, nominal(found, UNITS))
    assert all(abs(one.then) < 0.02 for one in changes)


def test_cross_talk_is_taken_into_account():
    names = ("A1.x", "A1.y")
    found = a_reading([30.0, -10.0], names=names)
    response = {"p": {"A1.x": 0.5, "A1.y": 0.2}, "q": {"A1.x": -0.1, "A1.y": 2.0}}
    changes = {c.control: c for c in propose(found, {n: state() for n in "pq"}, {"p": "raw", "q": "raw"}, response)}
    p, q = changes["p"].then, changes["q"].then
    assert 0.5 * p - 0.1 * q == pytest.approx(-30.0, rel=1e-3)
    assert 0.2 * p + 2.0 * q == pytest.approx(10.0, rel=1e-3)


def test_steps_end_at_the_limits_and_say_so():
    found = a_reading([500.0, 50.0], names=("C1", "A1.x"))
    controls = {"C1": state(), "A1.x": state(value=-980.0)}
    changes = {c.control: c for c in propose(found, controls, UNITS, nominal(found, UNITS))}
    assert abs(changes["C1"].then) <= 300.0
    assert changes["C1"].held == "largest step"
    assert changes["A1.x"].then == -1000.0
    assert changes["A1.x"].held == "at its limit"


def test_an_aim_is_where_it_should_be():
    found = a_reading([-1520.0], names=("C1",))
    (change,) = propose(
        found, {"C1": state(value=-1500.0, reach=4000.0)}, UNITS, nominal(found, UNITS), {"C1": -1500.0}
    )
    assert change.then == pytest.approx(-1480.0, abs=0.01)


def test_controls_nobody_knows_are_left_alone():
    found = a_reading([50.0], names=("C1",))
    assert propose(found, {"lens 7": state()}, {"lens 7": "raw"}, nominal(found, {"lens 7": "raw"})) == ()


# --------------------------------------------------------------------------------------------------------------- clicks


class Bench:
    """Carries out a click's steps: controls at once, pictures that hold their values."""

    def __init__(self, plan, stale=0, fail=None):
        self.values, self.done, self.time, self.stale, self.fail = {"a": 10.0}, [], 0.0, stale, fail
        try:
            step = next(plan)
            while True:
                step = plan.send(self.result(step))
        except StopIteration:
            pass

    def result(self, step):
        self.done.append(step)
        self.time += 1.0
        if step.kind == self.fail:
            return StepResult(step=step, status="failed", reason="the instrument is tired", finished_s=self.time)
        frames = ()
        if step.kind == "set_optics":
            self.values.update(step.values)
        elif step.kind == "take_image":
            began = self.time - (50.0 if self.stale else 0.5)
            self.stale = max(0, self.stale - 1)
            data = np.full((4, 4), self.values.get("a", 0.0))
            axes = (Axis(name="theta_y", units="mrad"), Axis(name="theta_x", units="mrad"))
            frames = (Frame(data=data, axes=axes, signal="x", metadata={"exposure_started_s": began}),)
        return StepResult(step=step, frames=frames, started_s=self.time - 1, finished_s=self.time)


def read(frame):
    return Reading(
        names=("tilt",), units=("mrad",), values=(3.0 + 0.5 * float(frame.data[0, 0]),), covariance=((1e-6,),),
        good=True, verdict="good",
    )  # fmt: skip


@pytest.fixture
def _reader(monkeypatch):
    monkeypatch.setattr(reading, "reader", lambda *_: read)


def settings(**more):
    return {"controls": {"a": state(value=10.0).model_dump()}, **more}


@pytest.mark.usefixtures("_reader")
def test_a_click_sets_looks_and_goes_back():
    bench = Bench(click.build(settings(values={"a": 40.0}, after={"a": 10.0}), CONTEXT))
    assert [step.kind for step in bench.done] == ["set_optics", "take_image", "note", "set_optics"]
    assert bench.values == {"a": 10.0}
    assert bench.done[2].data["reading"]["values"] == [pytest.approx(23.0)]


@pytest.mark.usefixtures("_reader")
def test_no_step_is_larger_than_the_largest():
    bench = Bench(click.build(settings(values={"a": -900.0}, look=False), CONTEXT))
    way = [10.0] + [step.values["a"] for step in bench.done]
    assert np.abs(np.diff(way)).max() <= 300.0
    assert way[-1] == -900.0


@pytest.mark.usefixtures("_reader")
def test_pictures_from_before_the_change_are_not_used():
    bench = Bench(click.build(settings(values={"a": 40.0}), CONTEXT), stale=2)
    assert [step.kind for step in bench.done].count("take_image") == 3
    with pytest.raises(InstrumentFault, match="settled"):
        Bench(click.build(settings(values={"a": 40.0}), CONTEXT), stale=9)


@pytest.mark.usefixtures("_reader")
def test_what_a_control_does_is_learned_and_the_control_put_back():
    bench = Bench(click.build(settings(learn=True), CONTEXT))
    assert bench.done[-1].data["response"] == {"a": {"tilt": pytest.approx(0.5)}}
    assert bench.values == {"a": 10.0}


@pytest.mark.usefixtures("_reader")
@pytest.mark.parametrize("kind", ["set_optics", "take_image"])
def test_a_step_that_fails_ends_the_click_with_its_reason(kind):
    with pytest.raises(InstrumentFault, match="tired"):
        Bench(click.build(settings(values={"a": 40.0}), CONTEXT), fail=kind)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"values": {"a": 4000.0}}, "outside"),
        ({"values": {"b": 1.0}}, "cannot be set"),
        ({"exposure_s": -1.0}, "exposure_s"),
        ({"target": "no such thing"}, "no such thing"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_in_a_sentence(bad, words):
    with pytest.raises(BadInput, match=words):
        click.build(settings(**bad), CONTEXT)


def test_a_frame_that_is_not_square_counts_to_its_shorter_edge():
    axes = (Axis(name="theta_y", units="mrad", scale=0.5), Axis(name="theta_x", units="mrad", scale=0.5))
    assert half_angle_mrad(Frame(data=np.ones((40, 80)), axes=axes, signal="R")) == 10.0
    with pytest.raises(BadInput, match="calibrate"):
        half_angle_mrad(Frame(data=np.ones((4, 4)), axes=(Axis(name="y"), Axis(name="x")), signal="R"))


def test_what_an_aperture_lets_through_is_its_parts_together():
    aberrations = {"C1": -60.0, "A1.x": 3.0, "B2.y": 90.0, "C3": 2.0}
    seen = through_aperture(aberrations, convergence_mrad=25.0, high_tension_v=200e3)
    assert seen.quarter_pi_mrad == pytest.approx(quarter_pi_angle_mrad(aberrations, 200e3))
    focused = through_aperture({**aberrations, "C1": 0.0}, convergence_mrad=25.0, high_tension_v=200e3)
    assert seen.in_focus_mrad == focused.quarter_pi_mrad == focused.in_focus_mrad > 2 * seen.quarter_pi_mrad
    chi = phase_plate(aberrations, half_angle_mrad=seen.plate_half_mrad, high_tension_v=200e3)
    assert np.abs(seen.plate).max() <= np.pi
    np.testing.assert_allclose(np.exp(1j * seen.plate), np.exp(1j * chi), atol=1e-9)
    assert seen.field_nm > 2 * focused.field_nm  # the defocused probe is that much wider
    for one in (seen, focused):  # and the picture holds it: hardly anything is left at its border
        border = np.concatenate([one.spot[0], one.spot[-1], one.spot[:, 0], one.spot[:, -1]])
        assert border.max() < 0.02 * one.spot.max()
