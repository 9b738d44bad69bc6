"""What every backend must do. Subclass `ContractSuite`, give it a fixture ``instrument``, and it runs over yours.

    class TestMyMicroscope(ContractSuite):
        @pytest.fixture
        def instrument(self):
            instrument = registry.connect("mine", **settings)
            yield instrument
            instrument.close()

The fixture may have any scope and give a guarded instrument or a bare one. What an instrument lacks is skipped, saying
so. No test asks for an exposure longer than ``exposure_s``, and none moves farther than the instrument says it may.
"""

from __future__ import annotations

import json
import math
import threading
import time

import numpy as np
import pytest

from napari_smarttem.backends import registry
from napari_smarttem.backends.base import CAPABILITIES
from napari_smarttem.schema import (
    BadInput,
    Cancelled,
    Field2D,
    Frame,
    InstrumentFault,
    InstrumentInfo,
    LimitExceeded,
    PlanContext,
    SmartTEMError,
)

NEVER = threading.Event()


def one_sentence(error: BaseException) -> bool:
    """True for a text a person can be shown: not empty, one line, ended like a sentence."""
    text = str(error)
    return len(text) > 20 and "\n" not in text and text.endswith(".") and "Traceback" not in text


class ContractSuite:
    """The contract of `backends.base`, as tests."""

    exposure_s = 0.05
    dwell_s = 1e-5
    cancel_within_s = 0.5
    """How long a detector may take to stop, on a real clock."""

    @pytest.fixture
    def instrument(self):
        raise AssertionError("a subclass of ContractSuite gives the fixture 'instrument'")

    @pytest.fixture
    def scanner(self, instrument):
        if instrument.scanner is None:
            pytest.skip(f"{instrument.info.name} has no scanner")
        if instrument.blanker is not None:
            instrument.blanker.set_blanked(False)
        return instrument.scanner

    @pytest.fixture
    def spectrometer(self, instrument, scanner):
        if instrument.spectrometer is None:
            pytest.skip(f"{instrument.info.name} has no spectrometer")
        return instrument.spectrometer

    def scan(self, scanner, shape=(16, 24), field=None, signals=(), cancel=NEVER) -> tuple[Frame, ...]:
        return scanner.scan(
            field=field or scanner.field, shape=shape, dwell_s=self.dwell_s, signals=signals, cancel=cancel
        )

    def middle(self, scanner) -> tuple[float, float]:
        field = scanner.field
        return field.y_nm + field.height_nm / 2, field.x_nm + field.width_nm / 2

    # --- identity

    def test_says_who_it_is(self, instrument):
        info = instrument.info
        assert isinstance(info, InstrumentInfo)
        assert info.backend
        assert info.name
        assert json.loads(info.model_dump_json()) == info.model_dump(mode="json")
        if info.simulated:
            assert "SIMULATED" in info.name
        if info.high_tension_v is not None:
            assert 1e3 <= info.high_tension_v <= 3e6

    def test_offers_the_capabilities_it_names(self, instrument):
        assert set(instrument.info.capabilities) <= set(CAPABILITIES)
        offered = {name for name in CAPABILITIES if getattr(instrument, name) is not None}
        assert offered == set(instrument.info.capabilities)

    def test_settings_suffice_to_connect_again(self, instrument):
        settings = json.loads(json.dumps(dict(instrument.info.settings)))
        again = registry.connect(instrument.info.backend, **settings)
        try:
            assert again.info.model_dump() == instrument.info.model_dump()
            assert again.plan_context() == instrument.plan_context()
        finally:
            again.close()

    def test_refuses_a_setting_it_does_not_have(self, instrument):
        with pytest.raises(BadInput, match="no_such_setting") as caught:
            registry.connect(instrument.info.backend, **instrument.info.settings, no_such_setting=1)
        assert one_sentence(caught.value)

    def test_context_is_complete(self, instrument):
        context = instrument.plan_context()
        assert isinstance(context, PlanContext)
        assert PlanContext.model_validate_json(context.model_dump_json()) == context
        assert context.beam_current_pa == instrument.beam_current_pa
        assert min(context.settle_s, context.flyback_s, context.spectrum_readout_s) >= 0
        if instrument.scanner is not None:
            assert context.field == instrument.scanner.field
            assert context.signals == instrument.scanner.signals
            assert context.native_shape == instrument.scanner.native_shape

    def test_clock_never_runs_backwards(self, instrument, scanner):
        times = [instrument.now_s()]
        for _ in range(3):
            self.scan(scanner, (2, 2))
            times.append(instrument.now_s())
        assert all(math.isfinite(t) for t in times)
        assert times == sorted(times)
        assert times[-1] > times[0]

    def test_closes_twice(self, instrument):
        other = registry.connect(instrument.info.backend, **instrument.info.settings)
        other.close()
        other.close()
        # Whoever else is connected stays so.
        assert math.isfinite(instrument.now_s())

    # --- scanner

    @pytest.mark.parametrize("shape", [(16, 24), (1, 7), (7, 1), (1, 1)])
    def test_scan_has_the_shape_and_the_axes_asked_for(self, scanner, shape):
        field = scanner.field
        (frame,) = self.scan(scanner, shape, signals=scanner.signals[:1])
        assert frame.shape == shape
        assert [axis.name for axis in frame.axes] == ["y", "x"]
        assert [axis.units for axis in frame.axes] == ["nm", "nm"]
        pixel = field.height_nm / shape[0], field.width_nm / shape[1]
        assert [axis.scale for axis in frame.axes] == pytest.approx(pixel)
        centre_of_first = field.y_nm + pixel[0] / 2, field.x_nm + pixel[1] / 2
        assert [axis.offset for axis in frame.axes] == pytest.approx(centre_of_first)
        assert np.isfinite(np.asarray(frame.data)).all()

    def test_scan_records_every_detector_in_the_order_asked(self, scanner):
        signals = tuple(reversed(scanner.signals))
        frames = self.scan(scanner, signals=signals)
        assert tuple(frame.signal for frame in frames) == signals
        assert {frame.shape for frame in frames} == {(16, 24)}

    def test_scan_of_a_part_is_calibrated(self, scanner):
        whole = scanner.field
        part = Field2D(
            y_nm=whole.y_nm + whole.height_nm / 4,
            x_nm=whole.x_nm + whole.width_nm / 2,
            height_nm=whole.height_nm / 2,
            width_nm=whole.width_nm / 4,
        )
        (frame,) = self.scan(scanner, (8, 4), field=part, signals=scanner.signals[:1])
        assert frame.coordinates("y")[0] == pytest.approx(part.y_nm + part.height_nm / 16)
        assert frame.coordinates("x")[-1] == pytest.approx(part.x_nm + part.width_nm * 7 / 8)

    def test_frames_carry_their_stamps(self, instrument, scanner):
        before = instrument.now_s()
        (frame,) = self.scan(scanner, signals=scanner.signals[:1])
        stamps = frame.metadata
        assert before <= stamps["exposure_started_s"] < stamps["exposure_finished_s"] <= instrument.now_s()
        assert stamps["exposure_finished_s"] - stamps["exposure_started_s"] >= 16 * 24 * self.dwell_s * 0.99
        assert stamps["dwell_s"] == self.dwell_s
        assert stamps["simulated"] is instrument.info.simulated
        assert json.dumps(dict(stamps), allow_nan=False)

    def test_scan_ends_with_the_probe_parked(self, scanner):
        scanner.move_probe(*self.middle(scanner))
        self.scan(scanner)
        assert scanner.probe_position_nm is None

    def test_scan_refuses_an_unknown_detector(self, scanner):
        with pytest.raises(BadInput) as caught:
            self.scan(scanner, signals=("no such detector",))
        assert one_sentence(caught.value)

    def test_scan_outside_the_field_is_refused(self, instrument, scanner):
        whole = scanner.field
        outside = whole.model_copy(update={"x_nm": whole.x_nm + whole.width_nm * 0.75})
        before = instrument.now_s()
        with pytest.raises(LimitExceeded) as caught:
            self.scan(scanner, field=outside)
        assert one_sentence(caught.value)
        assert instrument.now_s() == pytest.approx(before, abs=0.1)

    def test_scan_cancelled_before_it_began(self, scanner):
        asked = threading.Event()
        asked.set()
        with pytest.raises(Cancelled) as caught:
            self.scan(scanner, cancel=asked)
        assert one_sentence(caught.value)

    # --- probe

    def test_probe_moves_and_parks(self, scanner):
        scanner.park_probe()
        assert scanner.probe_position_nm is None
        y, x = self.middle(scanner)
        scanner.move_probe(y, x)
        assert scanner.probe_position_nm == pytest.approx((y, x))
        scanner.park_probe()
        scanner.park_probe()
        assert scanner.probe_position_nm is None

    def test_probe_reaches_the_whole_field(self, scanner):
        field = scanner.field
        for y in (field.y_nm, field.y_nm + field.height_nm):
            for x in (field.x_nm, field.x_nm + field.width_nm):
                scanner.move_probe(y, x)
                assert scanner.probe_position_nm == pytest.approx((y, x))

    @pytest.mark.parametrize("direction", [(-1, 0), (1, 0), (0, -1), (0, 1)])
    def test_probe_outside_the_field_is_refused(self, scanner, direction):
        scanner.move_probe(*self.middle(scanner))
        y, x = self.middle(scanner)
        with pytest.raises(LimitExceeded) as caught:
            scanner.move_probe(
                y + direction[0] * scanner.field.height_nm * 0.6, x + direction[1] * scanner.field.width_nm * 0.6
            )
        assert one_sentence(caught.value)
        assert scanner.probe_position_nm == pytest.approx((y, x))

    # --- spectrometer

    def test_spectrum_is_calibrated(self, instrument, scanner, spectrometer):
        scanner.move_probe(*self.middle(scanner))
        before = instrument.now_s()
        frame = spectrometer.acquire_spectrum(self.exposure_s, NEVER)
        assert frame.signal == spectrometer.signal
        assert frame.shape == (spectrometer.channels,)
        (axis,) = frame.axes
        assert axis.units == "eV"
        assert axis.scale == pytest.approx(spectrometer.dispersion_ev)
        assert axis.offset == pytest.approx(spectrometer.energy_offset_ev)
        assert np.isfinite(np.asarray(frame.data)).all()
        stamps = frame.metadata
        assert before <= stamps["exposure_started_s"] < stamps["exposure_finished_s"] <= instrument.now_s()
        assert stamps["exposure_s"] == pytest.approx(self.exposure_s)
        assert stamps["exposure_finished_s"] - stamps["exposure_started_s"] >= self.exposure_s * 0.99
        assert json.dumps(dict(stamps), allow_nan=False)

    def test_every_spectrum_has_as_many_channels(self, scanner, spectrometer):
        shapes = set()
        for fraction in (0.25, 0.5, 0.75):
            field = scanner.field
            scanner.move_probe(field.y_nm + fraction * field.height_nm, field.x_nm + fraction * field.width_nm)
            shapes.add(spectrometer.acquire_spectrum(self.exposure_s, NEVER).shape)
        assert shapes == {(spectrometer.channels,)}

    def test_a_parked_probe_records_nothing(self, scanner, spectrometer):
        scanner.park_probe()
        with pytest.raises(InstrumentFault) as caught:
            spectrometer.acquire_spectrum(self.exposure_s, NEVER)
        assert one_sentence(caught.value)

    @pytest.mark.parametrize("exposure", [0.0, -1.0, math.nan, math.inf])
    def test_an_impossible_exposure_is_refused(self, scanner, spectrometer, exposure):
        scanner.move_probe(*self.middle(scanner))
        with pytest.raises((BadInput, LimitExceeded)) as caught:
            spectrometer.acquire_spectrum(exposure, NEVER)
        assert one_sentence(caught.value)

    def test_exposure_cancelled_before_it_began(self, scanner, spectrometer):
        scanner.move_probe(*self.middle(scanner))
        asked = threading.Event()
        asked.set()
        with pytest.raises(Cancelled) as caught:
            spectrometer.acquire_spectrum(self.exposure_s, asked)
        assert one_sentence(caught.value)

    def test_exposure_stops_soon_after_it_is_cancelled(self, scanner, spectrometer):
        scanner.move_probe(*self.middle(scanner))
        asked, asked_at = threading.Event(), [math.inf]

        def ask() -> None:
            asked_at[0] = time.monotonic()
            asked.set()

        timer = threading.Timer(self.exposure_s / 4, ask)
        timer.start()
        try:
            spectrometer.acquire_spectrum(self.exposure_s, asked)
        except Cancelled:
            assert time.monotonic() - asked_at[0] < self.cancel_within_s
        else:  # a virtual clock: the exposure was over before anybody could ask
            assert time.monotonic() - min(asked_at[0], time.monotonic()) < self.cancel_within_s
        finally:
            timer.cancel()
            timer.join()
        scanner.move_probe(*self.middle(scanner))
        assert spectrometer.acquire_spectrum(self.exposure_s, NEVER).shape == (spectrometer.channels,)

    def test_spectrometer_settings_are_kept(self, scanner, spectrometer):
        before = spectrometer.dispersion_ev, spectrometer.energy_offset_ev
        low, high = spectrometer.energy_offset_range_ev
        assert low <= spectrometer.energy_offset_ev <= high
        assert any(math.isclose(spectrometer.dispersion_ev, d) for d in spectrometer.dispersions_ev)
        for dispersion in spectrometer.dispersions_ev:
            spectrometer.set_dispersion_ev(dispersion)
            assert spectrometer.dispersion_ev == pytest.approx(dispersion)
        low, high = spectrometer.energy_offset_range_ev
        spectrometer.set_energy_offset_ev((low + high) / 2)
        assert spectrometer.energy_offset_ev == pytest.approx((low + high) / 2)
        scanner.move_probe(*self.middle(scanner))
        (axis,) = spectrometer.acquire_spectrum(self.exposure_s, NEVER).axes
        assert axis.offset == pytest.approx(spectrometer.energy_offset_ev)
        assert axis.scale == pytest.approx(spectrometer.dispersion_ev)
        spectrometer.set_dispersion_ev(before[0])
        spectrometer.set_energy_offset_ev(before[1])

    def test_spectrometer_refuses_what_it_cannot_set(self, spectrometer):
        _, high = spectrometer.energy_offset_range_ev
        offset, dispersion = spectrometer.energy_offset_ev, spectrometer.dispersion_ev
        with pytest.raises(LimitExceeded) as caught:
            spectrometer.set_energy_offset_ev(high + 1000.0)
        assert one_sentence(caught.value)
        with pytest.raises((BadInput, LimitExceeded)) as caught:
            spectrometer.set_dispersion_ev(max(spectrometer.dispersions_ev) * 3.7)
        assert one_sentence(caught.value)
        assert (spectrometer.energy_offset_ev, spectrometer.dispersion_ev) == (offset, dispersion)

    # --- the rest

    def test_blanker(self, instrument):
        if instrument.blanker is None:
            pytest.skip(f"{instrument.info.name} has no blanker")
        for blanked in (True, True, False, True):
            instrument.blanker.set_blanked(blanked)
            assert instrument.blanker.blanked is blanked

    def test_optics_keep_what_is_set(self, instrument):
        if instrument.optics is None:
            pytest.skip(f"{instrument.info.name} has no optics")
        optics = instrument.optics
        before = optics.get()
        assert set(before) == set(optics.controls)
        for name, info in optics.controls.items():
            assert info.name == name
            assert info.minimum <= before[name] <= info.maximum
            step = min(info.largest_step, info.maximum - info.minimum) / 4
            value = before[name] + (step if before[name] + step <= info.maximum else -step)
            optics.set({name: value})
            assert optics.get() == pytest.approx({**before, name: value})
            optics.set({name: before[name]})
        assert optics.get() == pytest.approx(before)

    def test_optics_refuse_what_they_do_not_have(self, instrument):
        if instrument.optics is None:
            pytest.skip(f"{instrument.info.name} has no optics")
        before = instrument.optics.get()
        with pytest.raises(SmartTEMError) as caught:
            instrument.optics.set({"no such control": 1.0})
        assert one_sentence(caught.value)
        for name, info in instrument.optics.controls.items():
            with pytest.raises(LimitExceeded) as caught:
                instrument.optics.set({name: info.maximum + 10 * (info.maximum - info.minimum)})
            assert one_sentence(caught.value)
        assert instrument.optics.get() == before

    def test_frames_begin_after_the_optics_changed(self, instrument, scanner):
        if instrument.optics is None:
            pytest.skip(f"{instrument.info.name} has no optics")
        name, info = next(iter(instrument.optics.controls.items()))
        value = instrument.optics.get()[name]
        assert info.minimum <= value <= info.maximum
        step = info.largest_step / 4
        instrument.optics.set({name: value + (step if value + step <= info.maximum else -step)})
        changed_at = instrument.now_s()
        (frame,) = self.scan(scanner, signals=scanner.signals[:1])
        assert frame.metadata["exposure_started_s"] >= changed_at
        instrument.optics.set({name: value})

    def test_stage_moves(self, instrument):
        if instrument.stage is None:
            pytest.skip(f"{instrument.info.name} has no stage")
        before = instrument.stage.position()
        axis = "x_nm"
        instrument.stage.move({axis: before[axis] + 5.0})
        assert instrument.stage.position()[axis] == pytest.approx(before[axis] + 5.0, abs=1.0)
        instrument.stage.move(before)
        assert instrument.stage.position() == pytest.approx(before, abs=1.0)

    def test_camera_records(self, instrument, scanner):
        if instrument.camera is None:
            pytest.skip(f"{instrument.info.name} has no camera")
        scanner.move_probe(*self.middle(scanner))
        for camera in instrument.camera.cameras:
            frame = instrument.camera.acquire_image(self.exposure_s, NEVER, camera)
            assert len(frame.shape) == 2
            assert {axis.units for axis in frame.axes} <= {"mrad", "1/nm"}
            assert np.isfinite(np.asarray(frame.data)).all()
