"""Steps and documents: what is written down can be read again, and nonsense is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from napari_smarttem.schema import (
    Acquire,
    AwaitReview,
    ControlInfo,
    Document,
    Field2D,
    MoveProbe,
    Note,
    PlanContext,
    PlanEstimate,
    Scan,
    SetOptics,
    SetSpectrometer,
    Step,
    StepDone,
    StepResult,
    TakeImage,
    Target,
    electron_wavelength_nm,
    estimate_dose,
    estimate_duration,
    exposure_dose_e_per_a2,
    spectrum_frame,
)

FIELD = Field2D(y_nm=-10.0, x_nm=5.0, height_nm=100.0, width_nm=50.0)
CONTEXT = PlanContext(field=FIELD, beam_current_pa=50.0, settle_s=0.5e-3, flyback_s=60e-6, spectrum_readout_s=2e-3)
STEPS = [
    Scan(step_id="a", shape=(4, 8), dwell_s=1e-5, field=FIELD, signals=("HAADF",)),
    Acquire(step_id="b", y_nm=1.0, x_nm=2.0, exposure_s=0.1, target_id="t", drift_nm=(0.1, -0.2)),
    TakeImage(step_id="c", exposure_s=0.2),
    MoveProbe(step_id="d"),
    SetOptics(step_id="e", values={"C1": -100.0}),
    SetSpectrometer(step_id="f", dispersion_ev=0.5),
    AwaitReview(
        step_id="g",
        targets=(Target(target_id="t", y_nm=0.0, x_nm=0.0, score=0.5, label="edge", reason="steep"),),
        estimate=PlanEstimate(steps=1, duration_s=2.0, dose_e_per_a2=3.0),
    ),
    Note(step_id="h", text="drift", data={"dy": 1.0}),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.kind)
def test_a_step_survives_being_written_down(step):
    document = StepDone(step=step, status="done", at="now")
    again = TypeAdapter(Document).validate_json(document.model_dump_json())
    assert again == document
    assert TypeAdapter(Step).validate_json(step.model_dump_json()) == step


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Scan, {"shape": (0, 4), "dwell_s": 1e-6}),
        (Scan, {"shape": (4, 4), "dwell_s": 0.0}),
        (Acquire, {"y_nm": 0.0, "x_nm": float("nan"), "exposure_s": 0.1}),
        (Acquire, {"y_nm": 0.0, "x_nm": 0.0, "exposure_s": -1.0}),
        (Acquire, {"y_nm": 0.0, "x_nm": 0.0, "exposure_s": 0.1, "typo": 1}),
        (SetSpectrometer, {"dispersion_ev": 0.0}),
    ],
)
def test_nonsense_is_refused(kind, fields):
    with pytest.raises(ValidationError):
        kind(step_id="x", **fields)


def test_a_failure_needs_a_reason_and_a_target_a_score_between_0_and_1():
    with pytest.raises(ValidationError, match="needs a reason"):
        StepResult(step=STEPS[0], status="failed")
    with pytest.raises(ValidationError):
        Target(target_id="t", y_nm=0.0, x_nm=0.0, score=1.1)


def test_a_result_gives_its_frames_by_signal():
    frame = spectrum_frame(np.zeros(3), dispersion_ev=1.0, offset_ev=0.0, signal="EELS")
    result = StepResult(step=STEPS[1], frames=(frame,))
    assert result.ok
    assert result.frame() is result.frame("EELS")
    with pytest.raises(KeyError, match="EDS"):
        result.frame("EDS")


@given(y=st.floats(-10, 90), x=st.floats(5, 55))
def test_a_field_holds_its_points_and_its_edges(y, x):
    assert FIELD.contains(y, x)
    assert not FIELD.contains(y + 101.0, x)
    assert not FIELD.contains(y, x - 51.0)
    assert FIELD.area_nm2 == 5000.0


def test_durations_add_up():
    assert estimate_duration(STEPS[0], CONTEXT) == pytest.approx(4 * (8 * 1e-5 + 60e-6))
    assert estimate_duration(STEPS[1], CONTEXT) == pytest.approx(0.5e-3 + 0.1 + 2e-3)
    assert estimate_duration(STEPS[2], CONTEXT) == pytest.approx(0.2005)
    assert estimate_duration(STEPS[7], CONTEXT) == 0.0


def test_doses_from_first_principles():
    # 50 pA for 1 s are 3.12e8 electrons, over 5000 nm² = 5e5 Å²
    assert exposure_dose_e_per_a2(50.0, 1.0, 5000.0) == pytest.approx(50e-12 / 1.602176634e-19 / 5e5)
    assert estimate_dose(STEPS[0], CONTEXT) == pytest.approx(exposure_dose_e_per_a2(50.0, 32e-5, 5000.0))
    assert estimate_dose(STEPS[1], CONTEXT) == pytest.approx(exposure_dose_e_per_a2(50.0, 0.102, 5000.0))
    assert estimate_dose(STEPS[2], CONTEXT) == pytest.approx(exposure_dose_e_per_a2(50.0, 0.2, 5000.0))
    assert estimate_dose(STEPS[1], CONTEXT.model_copy(update={"beam_current_pa": None})) == 0.0


# Reimer & Kohl, Transmission Electron Microscopy, table of relativistic wavelengths
@pytest.mark.parametrize(("kilovolts", "picometres"), [(100, 3.701), (200, 2.508), (300, 1.969)])
def test_the_wavelength_of_the_tables(kilovolts, picometres):
    assert electron_wavelength_nm(kilovolts * 1e3) * 1e3 == pytest.approx(picometres, abs=1e-3)


def test_a_control_has_ordered_limits():
    with pytest.raises(ValidationError, match="above maximum"):
        ControlInfo(name="C1", units="nm", minimum=1.0, maximum=-1.0, largest_step=1.0)
