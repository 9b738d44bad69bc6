"""The guard refuses before anything moves, counts every electron, and never leaves the beam on."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.backends.guard import Guard, Limits
from napari_smarttem.backends.guarded import EitherToken
from napari_smarttem.backends.rehearsal import check_plan
from napari_smarttem.schema import (
    Acquire,
    AwaitReview,
    BadInput,
    Cancelled,
    ControlInfo,
    DoseBudgetExceeded,
    Field2D,
    InstrumentFault,
    LimitExceeded,
    MoveProbe,
    Note,
    Scan,
    SetOptics,
    SetSpectrometer,
    SmartTEMError,
    TakeImage,
)

from .toy_microscope import ToyMicroscope

NEVER = threading.Event()
# 16 pA are 16e-12 / 1.602176634e-19 electrons a second, on 10 nm x 20 nm = 20 000 Å².
DOSE_PER_S = 16e-12 / 1.602176634e-19 / 20_000


@pytest.fixture
def toy():
    return ToyMicroscope()


@pytest.fixture
def guard(toy):
    return Guard(toy)


def expose(guard, seconds=0.1, cancel=NEVER):
    return guard.spectrometer.acquire_spectrum(seconds, cancel)


def scan(guard, shape=(4, 5), dwell_s=1e-3, field=None, signals=("HAADF",)):
    return guard.scanner.scan(
        field=field or guard.scanner.field, shape=shape, dwell_s=dwell_s, signals=signals, cancel=NEVER
    )


class TestBeam:
    def test_is_on_only_during_an_exposure(self, toy, guard):
        guard.scanner.move_probe(5, 5)
        assert toy.blanker.blanked
        expose(guard)
        scan(guard)
        guard.camera.acquire_image(0.1, NEVER)
        assert toy.blanker.blanked
        assert toy.unblanked_s == pytest.approx(0.1 + 20e-3 + 0.1)
        for name in ("acquire_spectrum", "scan", "acquire_image"):
            at = toy.done.index(name)
            assert toy.done[at - 1] == "unblank"
            assert toy.done[at + 1] == "blank"

    @pytest.mark.parametrize("error", [Cancelled("x."), InstrumentFault("x."), RuntimeError("x"), KeyboardInterrupt()])
    def test_is_blanked_on_every_way_out(self, toy, guard, error):
        def fail():
            raise error

        toy.during_exposure = fail
        with pytest.raises(type(error)):
            expose(guard)
        assert toy.blanker.blanked

    def test_that_cannot_be_blanked_is_said(self, toy, guard):
        toy.during_exposure = lambda: setattr(toy.blanker, "stuck", True)
        with pytest.raises(InstrumentFault, match=r"could not be blanked.*by hand") as caught:
            expose(guard)
        assert not caught.value.transient
        assert guard.dose_e_per_a2 > 0

    def test_stays_off_where_the_exposure_is_refused(self, toy, guard):
        toy.blanker.set_blanked(True)
        toy.done.clear()
        with pytest.raises(BadInput):
            expose(guard, math.nan)
        asked = threading.Event()
        asked.set()
        with pytest.raises(Cancelled):
            expose(guard, cancel=asked)
        assert toy.done == ["blank"]

    def test_without_a_blanker_the_rest_works(self):
        toy = ToyMicroscope(blanker=False)
        guard = Guard(toy)
        assert guard.blanker is None
        expose(guard)
        assert guard.make_safe() == []
        assert toy.done == ["acquire_spectrum", "park_probe"]


class TestMakeSafe:
    def test_from_another_thread_ends_a_running_exposure(self, toy, guard):
        reports = []

        def interrupt():
            toy.during_exposure = lambda: None
            other = threading.Thread(target=lambda: reports.append(guard.make_safe()))
            other.start()
            other.join(5)

        toy.during_exposure = interrupt
        with pytest.raises(Cancelled):
            expose(guard, 1.0)
        assert reports == [[]]
        assert toy.blanker.blanked
        assert toy.unblanked_s == pytest.approx(0.1)
        assert guard.dose_e_per_a2 == pytest.approx(0.1 * DOSE_PER_S)

    def test_spoils_the_frame_of_a_detector_that_could_not_be_stopped(self, toy, guard):
        def last_slice():
            if toy.time > 0.95:
                guard.make_safe()

        toy.during_exposure = last_slice
        with pytest.raises(Cancelled, match="interrupted"):
            expose(guard, 1.0)

    def test_lets_the_next_exposure_begin(self, toy, guard):
        assert guard.make_safe() == []
        assert expose(guard).shape == (32,)

    def test_never_raises_and_says_what_failed(self, toy, guard):
        toy.blanker.stuck = True
        toy.scanner.park_probe = lambda: (_ for _ in ()).throw(RuntimeError("no coils"))
        failed = guard.make_safe()
        assert len(failed) == 2
        assert "blanked" in failed[0]
        assert "no coils" in failed[1]

    def test_does_not_wait_for_an_unblanking_that_hangs(self, toy, guard):
        hanging, release = threading.Event(), threading.Event()
        genuine = toy.blanker.set_blanked

        def set_blanked(blanked):
            if not blanked:
                hanging.set()
                release.wait(10)
            genuine(blanked)

        toy.blanker.set_blanked = set_blanked
        errors = []

        def hang():
            try:
                expose(guard)
            except SmartTEMError as error:
                errors.append(error)

        thread = threading.Thread(target=hang)
        thread.start()
        assert hanging.wait(5)
        assert guard.make_safe() == []
        assert toy.blanker.blanked
        release.set()
        thread.join(5)
        assert isinstance(errors[0], Cancelled)
        assert toy.blanker.blanked

    def test_closing_makes_safe_and_closes_once(self, toy, guard):
        guard.close()
        guard.close()
        assert toy.closed == 1
        assert toy.blanker.blanked


class TestDose:
    def test_is_what_was_delivered(self, guard):
        expose(guard, 0.5)
        scan(guard, (10, 10), 1e-3)
        assert guard.dose_e_per_a2 == pytest.approx(0.6 * DOSE_PER_S)

    def test_of_a_cancelled_exposure_is_the_part_delivered(self, toy, guard):
        asked = threading.Event()
        toy.during_exposure = lambda: asked.set() if toy.time > 0.25 else None
        with pytest.raises(Cancelled):
            expose(guard, 1.0, asked)
        assert guard.dose_e_per_a2 == pytest.approx(0.3 * DOSE_PER_S)

    def test_of_an_exposure_that_took_the_clock_along_is_the_whole(self, toy, guard):
        def lose_connection():
            toy.now_s = lambda: (_ for _ in ()).throw(ConnectionError("gone"))
            raise InstrumentFault("The connection was lost.")

        toy.during_exposure = lose_connection
        with pytest.raises(InstrumentFault):
            expose(guard, 1.0)
        assert guard.dose_e_per_a2 == pytest.approx(DOSE_PER_S)

    def test_budget_is_checked_before_the_exposure(self, toy, guard):
        guard.dose_budget_e_per_a2 = 1.05 * DOSE_PER_S
        expose(guard, 1.0)
        before = list(toy.done)
        with pytest.raises(DoseBudgetExceeded, match="used up") as caught:
            expose(guard, 0.1)
        assert "\n" not in str(caught.value)
        assert toy.done == before
        expose(guard, 0.05)
        assert guard.dose_e_per_a2 == pytest.approx(guard.dose_budget_e_per_a2)

    @pytest.mark.parametrize("current", [16.0, None])
    def test_budget_of_zero_allows_nothing(self, current):
        toy = ToyMicroscope(current=current)
        guard = Guard(toy, dose_budget_e_per_a2=0)
        with pytest.raises(DoseBudgetExceeded, match="zero"):
            expose(guard)
        with pytest.raises(DoseBudgetExceeded, match="zero"):
            scan(guard)
        assert toy.done == []

    def test_budget_needs_a_known_current(self):
        guard = Guard(ToyMicroscope(current=None), dose_budget_e_per_a2=10.0)
        with pytest.raises(DoseBudgetExceeded, match="current is not known"):
            expose(guard)
        guard.dose_budget_e_per_a2 = None
        expose(guard)
        assert guard.dose_e_per_a2 == 0

    @pytest.mark.parametrize("budget", [-1.0, math.nan, math.inf, "much"])
    def test_budget_that_makes_no_sense_is_refused(self, guard, budget):
        with pytest.raises(BadInput, match="dose budget"):
            guard.dose_budget_e_per_a2 = budget

    def test_counts_on_from_where_a_run_was_resumed(self, guard):
        guard.reset_dose(0.9 * DOSE_PER_S)
        guard.dose_budget_e_per_a2 = DOSE_PER_S
        with pytest.raises(DoseBudgetExceeded):
            expose(guard, 0.2)
        guard.reset_dose()
        expose(guard, 0.2)

    @given(st.lists(st.floats(1e-3, 2.0), max_size=12), st.floats(0, 5))
    def test_never_exceeds_the_budget(self, exposures, budget_s):
        guard = Guard(ToyMicroscope(), dose_budget_e_per_a2=budget_s * DOSE_PER_S)
        made = 0.0
        for seconds in exposures:
            try:
                expose(guard, seconds)
                made += seconds
            except DoseBudgetExceeded:
                assert budget_s == 0 or made + seconds > budget_s
        assert guard.dose_e_per_a2 <= guard.dose_budget_e_per_a2 * (1 + 1e-9)
        assert guard.dose_e_per_a2 == pytest.approx(made * DOSE_PER_S)


class TestLimits:
    @pytest.mark.parametrize(
        "change",
        [
            {"shape": (0, 5)},
            {"shape": (100_000, 100_000)},
            {"dwell_s": 0.0},
            {"dwell_s": 11.0},
            {"field": Field2D(y_nm=0, x_nm=0, height_nm=10.1, width_nm=20)},
            {"field": Field2D(y_nm=-1, x_nm=0, height_nm=5, width_nm=5)},
        ],
    )
    def test_of_a_scan(self, toy, guard, change):
        with pytest.raises(LimitExceeded):
            scan(guard, **change)
        assert toy.done == []

    def test_field_can_be_made_smaller(self, toy):
        limits = Limits(field=Field2D(y_nm=5, x_nm=5, height_nm=50, width_nm=5))
        guard = Guard(toy, limits=limits)
        assert guard.scanner.field == Field2D(y_nm=5, x_nm=5, height_nm=5, width_nm=5)
        guard.scanner.move_probe(7, 7)
        with pytest.raises(LimitExceeded, match="outside the scan field"):
            guard.scanner.move_probe(3, 7)
        nowhere = Guard(toy, limits=Limits(field=Field2D(y_nm=50, x_nm=5, height_nm=5, width_nm=5)))
        with pytest.raises(LimitExceeded, match="widen the limits"):
            scan(nowhere)

    @given(st.floats(-30, 30), st.floats(-30, 30))
    def test_probe_goes_exactly_where_the_field_is(self, y, x):
        toy = ToyMicroscope()
        guard = Guard(toy)
        inside = 0 <= y <= 10 and 0 <= x <= 20
        try:
            guard.scanner.move_probe(y, x)
        except LimitExceeded:
            assert not inside
            assert toy.scanner.probe_position_nm is None
        else:
            assert toy.scanner.probe_position_nm == (y, x)
            assert -1e-6 <= y <= 10 + 1e-6

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "left", None])
    def test_numbers_that_are_none_are_refused(self, toy, guard, bad):
        for command in (
            lambda: guard.scanner.move_probe(bad, 1.0),
            lambda: guard.scanner.move_probe(1.0, bad),
            lambda: expose(guard, bad),
            lambda: scan(guard, dwell_s=bad),
            lambda: guard.optics.set({"C1": bad}),
            lambda: guard.stage.move({"x_nm": bad}),
            lambda: guard.spectrometer.set_energy_offset_ev(bad),
            lambda: guard.spectrometer.set_dispersion_ev(bad),
            lambda: guard.camera.acquire_image(bad, NEVER),
        ):
            with pytest.raises(BadInput, match="number"):
                command()
        assert toy.done == []

    def test_of_exposure_and_names(self, guard):
        with pytest.raises(LimitExceeded):
            expose(guard, 601)
        with pytest.raises(LimitExceeded):
            guard.camera.acquire_image(0.0, NEVER)
        with pytest.raises(BadInput, match="no camera 'film'"):
            guard.camera.acquire_image(0.1, NEVER, "film")
        with pytest.raises(BadInput, match="no detector"):
            scan(guard, signals=("SE",))
        with pytest.raises(BadInput, match="no axis"):
            guard.stage.move({"w_nm": 1.0})
        assert guard.camera.acquire_image(0.1, NEVER, "sorter").signal == "sorter"

    def test_of_the_spectrometer(self, toy, guard):
        guard.spectrometer.set_dispersion_ev(0.1 * (1 + 1e-9))
        assert toy.spectrometer.dispersion_ev == 0.1
        with pytest.raises(LimitExceeded, match=r"0.1, 0.5"):
            guard.spectrometer.set_dispersion_ev(0.3)
        with pytest.raises(LimitExceeded, match="2000"):
            guard.spectrometer.set_energy_offset_ev(2001)
        guard.spectrometer.set_energy_offset_ev(400)
        assert expose(guard).axes[0].offset == 400


class TestOptics:
    def test_all_is_checked_before_anything_moves(self, toy, guard):
        with pytest.raises(LimitExceeded, match=r"A1\.x = 60 nm"):
            guard.optics.set({"C1": 50, "A1.x": 60})
        assert toy.optics.values == {"C1": 0.0, "A1.x": 0.0}
        guard.optics.set({"C1": 50, "A1.x": -20})
        assert toy.optics.values == {"C1": 50, "A1.x": -20}

    def test_a_larger_step_needs_a_yes(self, toy, guard):
        with pytest.raises(LimitExceeded, match="without a person's yes"):
            guard.optics.set({"C1": 300})
        with guard.approve_step("A1.x"), pytest.raises(LimitExceeded):
            guard.optics.set({"C1": 300})
        with guard.approve_step("C1"):
            guard.optics.set({"C1": 300})
        assert toy.optics.values["C1"] == 300
        with pytest.raises(LimitExceeded):
            guard.optics.set({"C1": 0})

    def test_a_yes_does_not_lift_the_limits(self, guard):
        with guard.approve_step(), pytest.raises(LimitExceeded, match="outside its limits"):
            guard.optics.set({"C1": 1001})

    def test_a_yes_holds_for_its_own_thread(self, guard):
        refused = []

        def other():
            try:
                guard.optics.set({"C1": 300})
            except LimitExceeded as error:
                refused.append(error)

        with guard.approve_step():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(5)
        assert len(refused) == 1

    @pytest.mark.parametrize("yes", [True, False])
    def test_a_person_can_be_asked(self, toy, yes):
        asked = []
        guard = Guard(toy, approve_step=lambda sentence: asked.append(sentence) or yes)
        if yes:
            guard.optics.set({"C1": 300})
        else:
            with pytest.raises(LimitExceeded):
                guard.optics.set({"C1": 300})
        assert "from 0 to 300 nm" in asked[0]
        assert toy.optics.values["C1"] == (300 if yes else 0)

    def test_limits_can_be_tightened_but_not_widened(self, toy):
        tight = ControlInfo(name="C1", units="nm", minimum=-10, maximum=10, largest_step=5)
        wide = ControlInfo(name="A1.x", units="nm", minimum=-500, maximum=500, largest_step=500)
        guard = Guard(toy, limits=Limits(controls={"C1": tight, "A1.x": wide, "C5": wide}))
        assert set(guard.optics.controls) == {"C1", "A1.x"}
        for values in ({"C1": 11}, {"C1": 6}, {"A1.x": 60}, {"A1.x": 21}):
            with pytest.raises(LimitExceeded):
                guard.optics.set(values)
        guard.optics.set({"C1": 5, "A1.x": 20})

    def test_an_unknown_control_is_named(self, guard):
        with pytest.raises(BadInput, match=r"'C9'.*C1, A1\.x"):
            guard.optics.set({"C9": 1})

    def test_stage_limits(self, toy):
        limits = {"x_nm": ControlInfo(name="x_nm", units="nm", minimum=-100, maximum=100, largest_step=50)}
        guard = Guard(toy, limits=Limits(stage=limits))
        with pytest.raises(LimitExceeded):
            guard.stage.move({"y_nm": 5, "x_nm": 60})
        assert guard.stage.position()["y_nm"] == 0
        guard.stage.move({"y_nm": 5000, "x_nm": 50})
        assert guard.stage.position() == {"y_nm": 5000, "x_nm": 50, "alpha_mrad": 0}


class TestSnapshot:
    def test_is_put_back(self, toy, guard):
        guard.optics.set({"C1": 80})
        snapshot = guard.snapshot()
        with guard.approve_step():
            guard.optics.set({"C1": -900, "A1.x": 20})
        guard.spectrometer.set_dispersion_ev(0.1)
        guard.spectrometer.set_energy_offset_ev(500)
        guard.restore(snapshot)
        assert toy.optics.values == {"C1": 80, "A1.x": 0}
        assert (toy.spectrometer.dispersion_ev, toy.spectrometer.energy_offset_ev) == (0.5, 0.0)
        assert guard.snapshot() == snapshot

    def test_nothing_is_touched_where_nothing_changed(self, toy, guard):
        guard.restore(guard.snapshot())
        assert toy.done == []

    def test_one_failure_does_not_keep_the_rest(self, toy, guard):
        snapshot = guard.snapshot()
        guard.optics.set({"C1": 80})
        guard.spectrometer.set_energy_offset_ev(500)
        toy.optics.stuck = True
        with pytest.raises(InstrumentFault, match=r"optics .*lens supply"):
            guard.restore(snapshot)
        assert toy.spectrometer.energy_offset_ev == 0.0


class TestFrames:
    @pytest.mark.parametrize("spoil", ["nan", "shape"])
    def test_that_are_not_usable_are_a_transient_fault(self, toy, guard, spoil):
        genuine = toy.spectrometer.acquire_spectrum

        def spoiled(exposure_s, cancel):
            frame = genuine(exposure_s, cancel)
            data = np.array(frame.data)
            data[3] = np.nan
            return frame.with_data(data if spoil == "nan" else data[:5])

        toy.spectrometer.acquire_spectrum = spoiled
        with pytest.raises(InstrumentFault) as caught:
            expose(guard)
        assert caught.value.transient
        assert guard.dose_e_per_a2 == pytest.approx(0.1 * DOSE_PER_S)
        assert toy.blanker.blanked

    def test_of_another_detector_than_asked_are_refused(self, toy, guard):
        genuine = toy.scanner.scan
        toy.scanner.scan = lambda **arguments: genuine(**arguments)[:1]
        with pytest.raises(InstrumentFault, match="BF"):
            scan(guard, signals=("HAADF", "BF"))


class TestDryRun:
    def test_touches_nothing(self, toy):
        guard = Guard(toy, dry_run=True)
        guard.scanner.move_probe(5, 5)
        frame = expose(guard, 0.5)
        (image,) = scan(guard)
        picture = guard.camera.acquire_image(0.5, NEVER)
        guard.optics.set({"C1": 90})
        guard.optics.set({"C1": 180})
        guard.stage.move({"x_nm": 3.0})
        guard.spectrometer.set_energy_offset_ev(300)
        guard.blanker.set_blanked(False)
        assert toy.done == []
        assert toy.time == 0
        assert (toy.optics.values["C1"], toy.spectrometer.energy_offset_ev, toy.blanker.blanked) == (0, 0, False)
        assert guard.optics.get()["C1"] == 180
        assert guard.stage.position()["x_nm"] == 3.0
        assert guard.snapshot().energy_offset_ev == 300
        for made in (frame, image, picture):
            assert made.metadata["dry_run"] is True
            assert not np.asarray(made.data).any()
        assert guard.dose_e_per_a2 == pytest.approx(1.02 * DOSE_PER_S)
        guard.close()
        assert toy.closed == 1

    def test_of_a_good_plan_finds_nothing(self, toy, guard):
        steps = [
            Scan(step_id="s", shape=(8, 8), dwell_s=1e-3, signals=("HAADF",)),
            Note(step_id="n", text="hello"),
            AwaitReview(step_id="w", targets=()),
            MoveProbe(step_id="m", y_nm=1, x_nm=1),
            MoveProbe(step_id="p"),
            Acquire(step_id="a", y_nm=5, x_nm=5, exposure_s=0.1),
            TakeImage(step_id="t", exposure_s=0.1, y_nm=5, x_nm=5),
            SetOptics(step_id="o", values={"C1": 50}),
            SetSpectrometer(step_id="e", energy_offset_ev=100, dispersion_ev=0.1),
        ]
        assert check_plan(steps, guard) == []
        assert toy.done == []

    def test_of_a_bad_plan_names_each_step(self, toy):
        toy.camera = None
        guard = Guard(toy, dose_budget_e_per_a2=1.0 * DOSE_PER_S)
        guard.reset_dose(0.5 * DOSE_PER_S)
        sentences = check_plan(
            [
                Acquire(step_id="outside", y_nm=50, x_nm=5, exposure_s=0.1),
                Acquire(step_id="fine", y_nm=5, x_nm=5, exposure_s=0.3),
                Acquire(step_id="too-much", y_nm=5, x_nm=5, exposure_s=0.3),
                SetOptics(step_id="o1", values={"C1": 90}),
                SetOptics(step_id="o2", values={"C1": 180}),
                SetOptics(step_id="far", values={"C1": 0}),
                SetSpectrometer(step_id="never", dispersion_ev=0.7),
                TakeImage(step_id="no-camera", exposure_s=0.1),
            ],
            guard,
        )
        assert [s.partition(":")[0] for s in sentences] == ["outside", "too-much", "far", "never", "no-camera"]
        assert guard.dose_e_per_a2 == pytest.approx(0.5 * DOSE_PER_S)
        assert toy.done == []


class TestEitherToken:
    def test_is_set_by_either(self):
        first, second = threading.Event(), threading.Event()
        token = EitherToken(first, second)
        assert not token.is_set()
        assert token.wait(0.02) is False
        second.set()
        assert token.is_set()
        assert token.wait() is True

    def test_wakes_soon(self):
        first, second = threading.Event(), threading.Event()
        timer = threading.Timer(0.05, second.set)
        timer.start()
        assert EitherToken(first, second).wait(5.0) is True
        timer.join()
