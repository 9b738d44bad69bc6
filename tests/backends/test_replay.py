"""A recording gives back what was recorded, thinned as counting statistics thins it, where it was recorded."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.backends import registry
from napari_smarttem.backends.guard import Guard
from napari_smarttem.backends.playback import PlaybackClock, thin
from napari_smarttem.backends.rehearsal import check_plan
from napari_smarttem.io import read
from napari_smarttem.schema import Acquire, BadInput, Cancelled, Field2D, InstrumentFault, LimitExceeded
from tests.recordings import axis, write_recording

NEVER = threading.Event()


def connect(path, **settings):
    return registry.connect("replay", file=str(path), **settings)


def scan(instrument, signal=None, shape=None, field=None, dwell_s=1e-6):
    scanner = instrument.scanner
    (frame,) = scanner.scan(
        field=field or scanner.field,
        shape=shape or scanner.native_shape,
        dwell_s=dwell_s,
        signals=(signal or scanner.signals[0],),
        cancel=NEVER,
    )
    return frame


def spectrum_at(instrument, row, column, exposure_s, *, pixel=2.0):
    field = instrument.scanner.field
    instrument.scanner.move_probe(field.y_nm + (row + 0.5) * pixel, field.x_nm + (column + 0.5) * pixel)
    return instrument.spectrometer.acquire_spectrum(exposure_s, NEVER)


@pytest.fixture(scope="session")
def recorded(small_recording):
    return read(small_recording)[0].data


@pytest.fixture
def replay(small_recording):
    return connect(small_recording)


class TestSpectra:
    def test_whole_exposure_is_the_recorded_spectrum(self, replay, recorded):
        for row, column in ((0, 0), (11, 9), (3, 7)):
            frame = spectrum_at(replay, row, column, 0.2)
            np.testing.assert_array_equal(frame.data, recorded[row, column])
            assert frame.data.dtype == recorded.dtype
            assert frame.metadata["pixel"] == [row, column]

    @pytest.mark.parametrize("lazy", [False, True])
    def test_from_disk_or_from_memory(self, small_recording, recorded, lazy):
        replay = connect(small_recording, lazy=lazy)
        assert replay.recording.spectra.is_lazy is lazy
        for row, column in ((5, 5), (5, 6), (0, 9), (5, 5)):
            np.testing.assert_array_equal(spectrum_at(replay, row, column, 0.2).data, recorded[row, column])
        np.testing.assert_array_equal(scan(replay).data, recorded.sum(-1))

    def test_the_pixel_is_the_one_the_probe_stands_in(self, replay):
        field = replay.scanner.field
        for y, row in ((0.01, 0), (1.99, 0), (2.01, 1), (23.99, 11), (24.0, 11)):
            replay.scanner.move_probe(field.y_nm + y, field.x_nm)
            assert replay.spectrometer.acquire_spectrum(0.1, NEVER).metadata["pixel"] == [row, 0]

    def test_field_ends_at_the_edges_of_the_outer_pixels(self, replay):
        # Centres from 100 nm and -40 nm in steps of 2 nm.
        assert replay.scanner.field == Field2D(y_nm=99, x_nm=-41, height_nm=24, width_nm=20)

    def test_longer_than_recorded_is_refused_with_the_maximum(self, replay):
        replay.scanner.move_probe(110, -30)
        with pytest.raises(LimitExceeded, match=r"0\.2 s at most"):
            replay.spectrometer.acquire_spectrum(0.21, NEVER)
        guard = Guard(replay)
        with pytest.raises(LimitExceeded, match=r"0\.2"):
            guard.spectrometer.acquire_spectrum(0.21, NEVER)
        steps = [Acquire(step_id=f"{e}", y_nm=110, x_nm=-30, exposure_s=e) for e in (0.2, 0.3)]
        assert [s.partition(":")[0] for s in check_plan(steps, guard)] == ["0.3"]

    def test_same_place_and_visit_give_the_same_counts_in_any_order(self, small_recording):
        one, two = connect(small_recording, seed=7), connect(small_recording, seed=7)
        places = [(0, 0), (4, 4), (9, 2), (4, 4)]
        first = [spectrum_at(one, *place, 0.05).data for place in places]
        again = [spectrum_at(two, *place, 0.05).data for place in (places[2], places[1], places[0], places[3])]
        np.testing.assert_array_equal(first[2], again[0])
        np.testing.assert_array_equal(first[0], again[2])
        np.testing.assert_array_equal(first[3], again[3])
        assert not np.array_equal(first[1], first[3])
        other = connect(small_recording, seed=8)
        assert not np.array_equal(first[0], spectrum_at(other, 0, 0, 0.05).data)

    def test_a_pixel_that_was_not_measured_is_a_transient_fault(self, tmp_path):
        data = np.ones((3, 4, 5), np.float32)
        data[1, 2] = np.nan
        axes = [axis("y", 3, 2, "nm", True), axis("x", 4, 2, "nm", True), axis("Energy loss", 5, 1, "eV", False)]
        replay = connect(write_recording(tmp_path / "masked.hspy", data, axes))
        with pytest.raises(InstrumentFault, match="row 1, column 2") as caught:
            spectrum_at(replay, 1, 2, 0.5)
        assert caught.value.transient
        spectrum_at(replay, 1, 1, 0.5)
        image = scan(replay).data
        assert image[1, 2] == 0
        assert image[0, 0] == 5


class TestThinning:
    def test_of_poisson_counts_gives_poisson_counts(self, rng):
        mean, fraction = 40.0, 0.3
        values = rng.poisson(mean, 200_000).astype(np.uint32)
        thinned = thin(values, fraction, rng)
        # Standard errors over n = 2e5: of the mean sqrt(12/n) = 0.008, of the variance about 12 sqrt(2/n) = 0.04.
        assert thinned.mean() == pytest.approx(12.0, abs=0.04)
        assert thinned.var() == pytest.approx(12.0, abs=0.2)

    def test_keeps_and_rejects_independently(self, rng):
        values = rng.poisson(30.0, 100_000)
        kept = thin(values, 0.4, rng)
        assert abs(np.corrcoef(kept, values - kept)[0, 1]) < 0.015  # 5 standard errors

    def test_of_floats_keeps_the_mean_and_the_sign(self, rng):
        values = np.full(100_000, 2.25, np.float32)
        values[::2] = -1.5
        thinned = thin(values, 0.5, rng)
        assert thinned.dtype == np.float32
        assert thinned[1::2].mean() == pytest.approx(1.125, abs=0.02)
        np.testing.assert_allclose(thinned[::2], -0.75)

    def test_gain_sets_the_noise(self, rng):
        values = np.full(100_000, 100.0)
        # n = values * g counts; var of a binomial n p (1-p), back in units: / g^2.
        for counts_per_unit in (0.5, 4.0):
            thinned = thin(values, 0.25, rng, counts_per_unit=counts_per_unit)
            assert thinned.mean() == pytest.approx(25, rel=0.01)
            assert thinned.var() == pytest.approx(100 * 0.25 * 0.75 / counts_per_unit, rel=0.05)

    @given(
        st.lists(st.integers(0, 2**20), min_size=1, max_size=20),
        st.floats(0, 1),
        st.integers(0, 2**31),
    )
    def test_never_adds_a_count(self, counts, fraction, seed):
        values = np.array(counts, np.uint32)
        thinned = thin(values, fraction, np.random.default_rng(seed))
        assert thinned.dtype == values.dtype
        assert (thinned <= values).all()

    def test_limits(self, rng):
        values = np.array([0, 3, 70], np.int32)
        assert not thin(values, 0.0, rng).any()
        np.testing.assert_array_equal(thin(values, 1.0, rng), values)


class TestImages:
    def test_summed_counts_are_the_overview_where_nothing_else_is(self, replay, recorded):
        assert replay.scanner.signals == ("EELS sum",)
        frame = scan(replay)
        np.testing.assert_array_equal(frame.data, recorded.sum(-1))
        assert frame.coordinates("y")[0] == 100
        assert frame.coordinates("x")[-1] == -22
        assert frame.metadata["as_recorded"] is True

    def test_part_of_the_field_is_part_of_the_image(self, replay, recorded):
        part = Field2D(y_nm=99 + 4, x_nm=-41 + 6, height_nm=8, width_nm=4)
        frame = scan(replay, shape=(4, 2), field=part)
        np.testing.assert_array_equal(frame.data, recorded.sum(-1)[2:6, 3:5])

    @pytest.mark.parametrize("factor", [2, 5])
    def test_finer_sampling_repeats_pixels(self, replay, recorded, factor):
        frame = scan(replay, shape=(12 * factor, 10 * factor))
        np.testing.assert_array_equal(frame.data, np.kron(recorded.sum(-1), np.ones((factor, factor))))

    def test_survey_from_another_file_comes_first(self, small_recording, tmp_path):
        image = np.arange(120.0).reshape(12, 10)
        axes = [axis("y", 12, 2.0, "nm", False), axis("x", 10, 2.0, "nm", False)]
        survey = write_recording(tmp_path / "HAADF survey.hspy", image, axes, signal_type="")
        replay = connect(small_recording, survey=str(survey))
        assert replay.scanner.signals == ("HAADF", "EELS sum")
        np.testing.assert_array_equal(scan(replay).data, image)

    def test_finer_survey_of_the_same_field_keeps_its_pixels(self, small_recording, tmp_path):
        image = np.arange(48.0 * 40).reshape(48, 40)
        axes = [axis("y", 48, 0.5, "nm", False), axis("x", 40, 0.5, "nm", False)]
        survey = write_recording(tmp_path / "BF.hspy", image, axes, signal_type="")
        replay = connect(small_recording, survey=str(survey))
        np.testing.assert_array_equal(scan(replay, "BF", shape=(48, 40)).data, image)

    def test_survey_of_another_field_is_refused(self, small_recording, tmp_path):
        axes = [axis("y", 48, 5, "nm", False), axis("x", 40, 5, "nm", False)]
        survey = write_recording(tmp_path / "BF.hspy", np.ones((48, 40)), axes, signal_type="")
        with pytest.raises(BadInput, match=r"no image of the field of small\.hspy"):
            connect(small_recording, survey=str(survey))


class TestDrift:
    def test_moves_the_image_and_the_probe_together(self, small_recording, recorded):
        replay = connect(small_recording, drift_nm_per_s=(0.0, 4.0))
        replay.clock.run(1.0, NEVER)
        image = scan(replay)  # the specimen has moved by two pixels to the right
        np.testing.assert_array_equal(image.data[:, 2:], recorded.sum(-1)[:, :-2])
        assert image.metadata["truth"]["drift_nm"] == pytest.approx([0, 4], abs=1e-3)
        assert spectrum_at(replay, 6, 7, 1e-4).metadata["pixel"] == [6, 5]

    def test_shears_a_slow_scan(self, small_recording, recorded):
        replay = connect(small_recording, drift_nm_per_s=(0.0, 1.0))
        image = scan(replay, dwell_s=0.1).data  # a line takes 1 s, a pixel of drift 2 s
        np.testing.assert_array_equal(image[0], recorded.sum(-1)[0])
        np.testing.assert_array_equal(image[4, 2:], recorded.sum(-1)[4, :-2])

    def test_beyond_the_edge_repeats_the_edge(self, small_recording, recorded):
        replay = connect(small_recording, drift_nm_per_s=(100.0, 0.0))
        replay.clock.run(10.0, NEVER)
        np.testing.assert_array_equal(scan(replay).data, np.tile(recorded.sum(-1)[0], (12, 1)))


class TestFiles:
    def test_facts_of_the_file_are_kept(self, replay):
        info = replay.info
        assert (info.backend, info.simulated, info.high_tension_v) == ("replay", False, 200e3)
        assert replay.beam_current_pa == 50.0
        assert info.details["recorded"] is True
        assert info.details["recorded_exposure_s"] == 0.2
        assert info.details["assumptions"] == []
        assert replay.spectrometer.signal == "EELS"
        assert (replay.spectrometer.energy_offset_ev, replay.spectrometer.dispersion_ev) == (280, 0.5)

    def test_what_is_given_counts_more_than_the_file(self, small_recording):
        replay = connect(small_recording, beam_current_pa=3.0, exposure_s=2.0)
        assert replay.beam_current_pa == replay.plan_context().beam_current_pa == 3.0
        assert spectrum_at(replay, 0, 0, 2.0).metadata["recorded"]["exposure_s"] == 2.0

    def test_uncalibrated_axes_are_said(self, tmp_path):
        data = np.ones((4, 5, 6), np.uint8)
        axes = [
            axis("y", 4, 0.3, "<undefined>", True),
            axis("x", 5, 0.3, "<undefined>", True),
            axis("Energy loss", 6, 1.0, "<undefined>", False),
        ]
        replay = connect(write_recording(tmp_path / "plain.hspy", data, axes))
        assert replay.scanner.field == Field2D(y_nm=-0.5, x_nm=-0.5, height_nm=4, width_nm=5)
        said = " ".join(replay.info.details["assumptions"])
        assert "one pixel is taken as 1 nm" in said
        assert "one channel is taken as 1 eV" in said
        frame = spectrum_at(replay, 3, 4, 0.5, pixel=1.0)
        assert frame.axes[0].units == "eV"
        assert frame.metadata["assumptions"] == replay.info.details["assumptions"]

    def test_live_time_is_shared_by_the_pixels(self, tmp_path):
        axes = [axis("y", 4, 1, "nm", True), axis("x", 5, 1, "nm", True), axis("Energy", 6, 0.01, "keV", False)]
        path = write_recording(
            tmp_path / "map.hspy",
            np.ones((4, 5, 6), np.uint8),
            axes,
            signal_type="EDS_TEM",
            Acquisition_instrument={"TEM": {"Detector": {"EDS": {"live_time": 40.0}}}},
        )
        replay = connect(path)
        assert replay.info.details["recorded_exposure_s"] == 2.0
        assert "live time of 40 s" in replay.info.details["assumptions"][0]
        assert replay.spectrometer.signal == "EDS"
        assert replay.spectrometer.dispersion_ev == pytest.approx(10)

    def test_axes_that_run_backwards_are_turned(self, tmp_path, rng):
        data = rng.poisson(50, (3, 4, 5)).astype(np.uint16)
        axes = [
            axis("y", 3, -2, "nm", True, offset=10),
            axis("x", 4, 2, "nm", True),
            axis("Energy loss", 5, 1, "eV", False),
        ]
        replay = connect(write_recording(tmp_path / "turned.hspy", data, axes), exposure_s=1.0)
        assert replay.scanner.field.y_nm == 5
        replay.scanner.move_probe(10, 0)  # where the file has its first row
        np.testing.assert_array_equal(replay.spectrometer.acquire_spectrum(1.0, NEVER).data, data[0, 0])

    def test_a_line_is_a_field_one_pixel_high(self, tmp_path, rng):
        data = rng.poisson(50, (7, 5)).astype(np.uint16)
        axes = [axis("x", 7, 3, "nm", True), axis("Energy loss", 5, 1, "eV", False)]
        replay = connect(write_recording(tmp_path / "line.hspy", data, axes))
        assert replay.scanner.native_shape == (1, 7)
        assert replay.scanner.field == Field2D(y_nm=-1.5, x_nm=-1.5, height_nm=3, width_nm=21)
        np.testing.assert_array_equal(scan(replay).data, data.sum(-1)[None])
        np.testing.assert_array_equal(spectrum_at(replay, 0, 4, 1.0, pixel=3).data, data[4])

    def test_a_recorded_simulation_stays_simulated(self, tmp_path):
        axes = [axis("y", 2, 1, "nm", True), axis("x", 2, 1, "nm", True), axis("Energy loss", 5, 1, "eV", False)]
        path = write_recording(
            tmp_path / "twin.hspy", np.ones((2, 2, 5), np.uint8), axes, napari_smarttem={"simulated": True}
        )
        replay = connect(path)
        assert replay.info.simulated is True
        assert "SIMULATED" in replay.info.name
        assert spectrum_at(replay, 0, 0, 0.5, pixel=1).metadata["simulated"] is True

    def test_a_file_without_a_spectrum_image_says_what_it_holds(self, tmp_path):
        axes = [axis("y", 3, 1, "nm", False), axis("x", 4, 1, "nm", False)]
        path = write_recording(tmp_path / "image.hspy", np.ones((3, 4)), axes, signal_type="")
        with pytest.raises(BadInput, match=r"no EELS or EDS spectrum image.*3 x 4"):
            connect(path)
        with pytest.raises(BadInput, match="does not exist"):
            connect(tmp_path / "nothing.hspy")

    def test_a_dataset_can_be_chosen(self, small_recording):
        assert connect(small_recording, dataset=0).info.settings["dataset"] == 0
        assert connect(small_recording, dataset="small").info.settings["dataset"] == 0
        with pytest.raises(BadInput, match="no spectrum image 3; it holds 0: small"):
            connect(small_recording, dataset=3)

    def test_a_lazy_file_that_goes_away_is_one_sentence(self, small_recording):
        replay = connect(small_recording, lazy=True)

        class Gone:
            chunks = ((12,), (10,), (64,))
            shape, dtype, ndim = (12, 10, 64), np.dtype("u2"), 3

            def __getitem__(self, index):
                raise OSError("drive not ready")

        replay.recording.spectra = replay.recording.spectra.model_copy(update={"data": Gone()})
        with pytest.raises(InstrumentFault, match=r"can no longer be read.*drive not ready") as caught:
            spectrum_at(replay, 0, 0, 0.1)
        assert not caught.value.transient

    def test_after_closing_it_says_so(self, replay):
        replay.close()
        for call in (lambda: replay.scanner.move_probe(110, -30), lambda: scan(replay)):
            with pytest.raises(InstrumentFault, match="disconnected"):
                call()

    @pytest.mark.parametrize(
        "settings",
        [
            {"exposure_s": 0},
            {"exposure_s": math.nan},
            {"beam_current_pa": -3},
            {"counts_per_unit": 0},
            {"counts_per_unit": "many"},
            {"speed": 0},
            {"speed": math.inf},
            {"drift_nm_per_s": (1,)},
            {"drift_nm_per_s": (math.nan, 0)},
            {"drift_nm_per_s": "fast"},
        ],
    )
    def test_settings_that_make_no_sense(self, small_recording, settings):
        with pytest.raises(BadInput, match=next(iter(settings))) as caught:
            connect(small_recording, **settings)
        assert "\n" not in str(caught.value)


@pytest.mark.real_data
class TestRealRecordings:
    def test_core_shell_particles(self, shared_data):
        replay = connect(shared_data / "core_shell.hspy")
        data = read(shared_data / "core_shell.hspy")[0].data
        assert replay.scanner.native_shape == (64, 64)
        np.testing.assert_array_equal(scan(replay).data, data.sum(-1))
        np.testing.assert_array_equal(spectrum_at(replay, 31, 17, 1.0, pixel=0.5).data, data[31, 17])
        half = spectrum_at(replay, 31, 17, 0.5, pixel=0.5).data
        assert (half <= data[31, 17]).all()
        assert "1 s is taken" in replay.info.details["assumptions"][0]

    def test_particles_with_their_own_dark_field_image(self, shared_data):
        replay = connect(shared_data / "SiO2_EDS_SI.hspy", survey=str(shared_data / "SiO2_HAADF.hspy"), lazy=True)
        assert replay.scanner.signals == ("HAADF", "EDS sum")
        np.testing.assert_array_equal(scan(replay).data, read(shared_data / "SiO2_HAADF.hspy")[0].data)
        assert replay.beam_current_pa == 770

    def test_one_spectrum_is_no_map(self, shared_data):
        with pytest.raises(BadInput, match="01-EELS Acquire_STO"):
            connect(shared_data / "EELS_STO.dm3")


class TestClock:
    def test_without_waiting(self):
        clock = PlaybackClock(None)
        began = time.monotonic()
        assert clock.run(1000.0, NEVER) == 1000.0
        assert clock.now_s() == 1000.0
        assert time.monotonic() - began < 100.0

    def test_in_real_time(self):
        clock = PlaybackClock(2.0)
        began = time.monotonic()
        assert clock.run(0.2, NEVER) == pytest.approx(0.2)
        assert time.monotonic() - began >= 0.099
        assert clock.now_s() == pytest.approx(0.2)

    def test_stops_when_asked(self):
        clock, asked = PlaybackClock(1.0), threading.Event()
        timer = threading.Timer(0.05, asked.set)
        timer.start()
        passed = clock.run(60.0, asked)
        timer.join()
        assert 0 <= passed < 60.0
        assert clock.now_s() == pytest.approx(passed)
        assert clock.run(10.0, asked) == 0.0

    def test_a_scan_says_how_far_it_came(self, small_recording):
        replay, asked = connect(small_recording, speed=1.0), threading.Event()
        timer = threading.Timer(0.05, asked.set)
        timer.start()
        with pytest.raises(Cancelled, match="of 12 lines"):
            replay.scanner.scan(
                field=replay.scanner.field, shape=(12, 10), dwell_s=0.5, signals=("EELS sum",), cancel=asked
            )
        timer.join()
        assert replay.now_s() < 50.0
