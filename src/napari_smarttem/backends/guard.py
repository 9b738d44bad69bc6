"""Stands between a plan and an instrument: limits, largest step, dose budget, and a blanked beam on every way out.

`Guard` has the shape of an `Instrument` and wraps every one of them, a simulation as well as a microscope. It refuses
a command *before* anything moves, and accounts for the dose *after* every exposure, a cancelled or failed one included.
Where there is a blanker, the beam reaches the specimen only while an exposure is going on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..schema import (
    BadInput,
    Cancelled,
    ControlInfo,
    DoseBudgetExceeded,
    Field2D,
    Frame,
    InstrumentFault,
    InstrumentInfo,
    LimitExceeded,
    PlanContext,
    exposure_dose_e_per_a2,
)
from .base import Blanker, Camera, CancelToken, Instrument, Optics, Scanner, Spectrometer, Stage
from .batch import visit
from .guarded import (
    EitherToken,
    GuardedBlanker,
    GuardedCamera,
    GuardedOptics,
    GuardedScanner,
    GuardedSpectrometer,
    GuardedStage,
    number,
)
from .limits import Limits, Snapshot
from .rehearsal import Rehearsal

__all__ = ["Guard", "Limits", "Snapshot"]
NEVER = threading.Event()


class Guard:
    """An instrument that cannot be asked for something dangerous.

    Parameters
    ----------
    instrument : Instrument
        What is guarded; `unwrapped` gives it back.
    limits : Limits, optional
        Beyond the instrument's own.
    dose_budget_e_per_a2 : float, optional
        Largest dose, averaged over the field of view, in e/Å²; None: no budget; 0: no exposure at all.
    dry_run : bool
        Check everything, touch nothing: settings are kept in memory, exposures give frames of zeros marked ``dry_run``.
    approve_step : callable, optional
        Asked, with one sentence, before a control moves farther than its largest step; True is a person's yes.
    """

    def __init__(
        self,
        instrument: Instrument,
        *,
        limits: Limits | None = None,
        dose_budget_e_per_a2: float | None = None,
        dry_run: bool = False,
        approve_step: Callable[[str], bool] | None = None,
    ) -> None:
        self.unwrapped = instrument
        self.limits = limits or Limits()
        self.dry_run = dry_run
        self._inner: Instrument = Rehearsal(instrument) if dry_run else instrument
        self._ask = approve_step
        self._approved = threading.local()
        self._lock = threading.RLock()
        self._in_flight: set[threading.Event] = set()
        self._dose = 0.0
        self._closed = False
        self.dose_budget_e_per_a2 = dose_budget_e_per_a2
        inner = self._inner
        self.readout_s = inner.plan_context().spectrum_readout_s
        self.batch: Callable[..., Iterator[Frame]] | None = getattr(inner, "visit", None)
        self.info: InstrumentInfo = inner.info
        self.scanner: Scanner | None = None if inner.scanner is None else GuardedScanner(self, inner.scanner)
        self.spectrometer: Spectrometer | None = (
            None if inner.spectrometer is None else GuardedSpectrometer(self, inner.spectrometer)
        )
        self.camera: Camera | None = None if inner.camera is None else GuardedCamera(self, inner.camera)
        self.optics: Optics | None = None if inner.optics is None else GuardedOptics(self, inner.optics)
        self.stage: Stage | None = None if inner.stage is None else GuardedStage(self, inner.stage)
        self.blanker: Blanker | None = None if inner.blanker is None else GuardedBlanker(self, inner.blanker)

    @property
    def beam_current_pa(self) -> float | None:
        """Present beam current in pA, None where it is not known."""
        return self._inner.beam_current_pa

    def now_s(self) -> float:
        """The instrument's clock, in s."""
        return self._inner.now_s()

    def plan_context(self) -> PlanContext:
        """What a plan may know before it starts."""
        return self._inner.plan_context()

    def close(self) -> None:
        """Make safe and let go of the instrument. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.make_safe()
        self.unwrapped.close()

    # --- dose

    @property
    def dose_e_per_a2(self) -> float:
        """Electrons delivered so far by exposures, averaged over the field of view, in e/Å²."""
        return self._dose

    @property
    def dose_budget_e_per_a2(self) -> float | None:
        """Largest dose allowed, in e/Å²; None where there is no budget."""
        return self._budget

    @dose_budget_e_per_a2.setter
    def dose_budget_e_per_a2(self, budget: float | None) -> None:
        if budget is not None:
            budget = number("The dose budget", budget)
            if budget < 0:
                raise BadInput(f"The dose budget must be zero or more, in e/Å², or None for no budget; got {budget:g}.")
        self._budget = budget

    def reset_dose(self, delivered_e_per_a2: float = 0.0) -> None:
        """Start counting at `delivered_e_per_a2`: 0 for a new run, what the journal says for one that is resumed."""
        with self._lock:
            self._dose = number("The dose delivered so far", delivered_e_per_a2)

    def dose_of(self, exposed_s: float) -> float:
        """Field-averaged dose in e/Å² of `exposed_s` seconds of beam; 0 where the current is not known."""
        return exposure_dose_e_per_a2(self._inner.beam_current_pa, exposed_s, self.field.area_nm2)

    @property
    def field(self) -> Field2D:
        """Where the probe may go, and the area doses are averaged over: what the scanner reaches, inside the limits."""
        scanner = self._inner.scanner
        whole = self._inner.plan_context().field if scanner is None else scanner.field
        limit = self.limits.field
        if limit is None:
            return whole
        y0, x0 = max(whole.y_nm, limit.y_nm), max(whole.x_nm, limit.x_nm)
        y1 = min(whole.y_nm + whole.height_nm, limit.y_nm + limit.height_nm)
        x1 = min(whole.x_nm + whole.width_nm, limit.x_nm + limit.width_nm)
        if y1 <= y0 or x1 <= x0:
            raise LimitExceeded("The field the limits allow lies outside what the scanner reaches; widen the limits.")
        return Field2D(y_nm=y0, x_nm=x0, height_nm=y1 - y0, width_nm=x1 - x0)

    def _check_budget(self, exposed_s: float) -> None:
        budget = self._budget
        if budget is None:
            return
        if budget == 0:
            raise DoseBudgetExceeded(
                "The dose budget is zero, so no exposure is allowed; raise the budget or run without one."
            )
        if self._inner.beam_current_pa is None:
            raise DoseBudgetExceeded(
                f"The beam current is not known, so a dose budget of {budget:g} e/Å² cannot be kept; "
                "give the instrument its beam current or run without a budget."
            )
        planned = self.dose_of(exposed_s)
        if self._dose + planned > budget * (1 + 1e-9):
            raise DoseBudgetExceeded(
                f"The next exposure delivers {planned:.3g} e/Å² and {self._dose:.3g} of {budget:.3g} e/Å² are used up; "
                "raise the budget, expose less or stop here."
            )

    # --- many points

    def affordable(self, exposed_s: float, wanted: int) -> int:
        """How many of `wanted` exposures the budget allows; `DoseBudgetExceeded` where not even one."""
        self._check_budget(exposed_s)
        one = self.dose_of(exposed_s)
        if self._budget is None or one == 0:
            return wanted
        return max(1, min(wanted, math.floor((self._budget * (1 + 1e-9) - self._dose) / one)))

    def count(self, exposed_s: float) -> None:
        """Count the dose of `exposed_s` seconds of beam."""
        dose = self.dose_of(exposed_s)
        with self._lock:
            self._dose += dose

    def visit(
        self, points_nm: Sequence[tuple[float, float]], exposure_s: float, cancel: CancelToken = NEVER
    ) -> Iterator[Frame]:
        """A spectrum at each place (y, x) in nm; together, without a round trip for each, where the instrument can.

        What was recorded before something went wrong, or before the dose budget was used up, is given; then the reason is
        raised.
        """
        return visit(self, points_nm, exposure_s, cancel)

    @contextmanager
    def interruptible(self, cancel: CancelToken) -> Iterator[CancelToken]:
        """A token that `make_safe` sets too, for this block; the beam is blanked after it, and `Cancelled` raised if so."""
        interrupted = threading.Event()
        with self._lock:
            self._in_flight.add(interrupted)
        try:
            yield EitherToken(cancel, interrupted)
        finally:
            try:
                self._blank_after()
            finally:
                with self._lock:
                    self._in_flight.discard(interrupted)
        if interrupted.is_set():
            raise Cancelled("The exposure was interrupted to make the instrument safe; what it recorded is not used.")

    @contextmanager
    def exposure(self, exposed_s: float, cancel: CancelToken, *, stationary: bool = False) -> Iterator[CancelToken]:
        """Beam on the specimen inside this block only: budget checked before, dose counted and beam blanked after.

        A scan delivers dose while it dwells (`exposed_s`). A `stationary` probe delivers it until the beam is blanked: the
        time the detector takes to read out, or to fail, is counted too. Gives the cancel token to expose with: it is also
        set when `make_safe` is called from another thread.
        """
        self._check_budget(exposed_s + (self.readout_s if stationary else 0.0))
        started = math.nan
        done = False
        try:
            with self.interruptible(cancel) as token:
                with self._lock:  # so that make_safe can never be overtaken by an unblanking that was already under way
                    if token.is_set():
                        raise Cancelled("Stopped before the exposure began.")
                    started = self._inner.now_s()
                    if self._inner.blanker is not None:
                        self._inner.blanker.set_blanked(False)
                yield token
                done = True
        finally:
            self._count(exposed_s, started, done, stationary)

    def _count(self, exposed_s: float, started_s: float, done: bool, stationary: bool) -> None:
        if math.isnan(started_s):
            return  # the beam never came on
        try:
            on_s = max(self._inner.now_s() - started_s, 0.0)
        except Exception:  # the clock went with the connection: count the whole exposure rather than too little
            on_s, done = exposed_s, True
        delivered_s = (
            max(on_s, exposed_s if done else 0.0) if stationary else exposed_s if done else min(on_s, exposed_s)
        )
        self.count(delivered_s)

    def blank_between_exposures(self) -> None:
        """Blank a beam that somebody left on, so that a probe under way or at rest writes nothing into the specimen."""
        blanker = self._inner.blanker
        if blanker is not None and not blanker.blanked:
            blanker.set_blanked(True)

    def _blank_after(self) -> None:
        blanker = self._inner.blanker
        if blanker is None:
            return
        try:
            blanker.set_blanked(True)
        except Exception as first:
            try:
                blanker.set_blanked(True)
            except Exception as error:
                raise InstrumentFault(
                    f"The beam could not be blanked after an exposure ({first}); blank it by hand now."
                ) from error

    # --- largest step

    @contextmanager
    def approve_step(self, *names: str) -> Iterator[None]:
        """A person's yes: in this block, on this thread, `names` (none given: all) may move farther than a step."""
        before: tuple[frozenset[str], ...] = getattr(self._approved, "names", ())
        self._approved.names = (*before, frozenset(names))
        try:
            yield
        finally:
            self._approved.names = before

    def check_control(self, info: ControlInfo, value: float, present: float) -> None:
        """Raise `LimitExceeded` unless the control may go from `present` to `value`, both in its own units."""
        units = "" if info.units == "raw" else f" {info.units}"
        if not info.minimum <= value <= info.maximum:
            raise LimitExceeded(
                f"{info.name} = {value:g}{units} is outside its limits, {info.minimum:g} to {info.maximum:g}{units}; "
                "nothing was moved."
            )
        step = abs(value - present)
        if step <= info.largest_step * (1 + 1e-9):
            return
        if any(not names or info.name in names for names in getattr(self._approved, "names", ())):
            return
        sentence = (
            f"{info.name} would move by {step:g}{units}, from {present:g} to {value:g}{units}, farther than the "
            f"{info.largest_step:g}{units} it may move in one step without a person's yes"
        )
        if self._ask is None or not self._ask(f"{sentence}."):
            raise LimitExceeded(f"{sentence}; nothing was moved.")

    # --- snapshot, restore, safe

    def snapshot(self) -> Snapshot:
        """Present settings of the optics and the spectrometer."""
        optics, spectrometer = self._inner.optics, self._inner.spectrometer
        return Snapshot(
            optics={} if optics is None else dict(optics.get()),
            energy_offset_ev=None if spectrometer is None else spectrometer.energy_offset_ev,
            dispersion_ev=None if spectrometer is None else spectrometer.dispersion_ev,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Put the settings of `snapshot` back; all that can be, even where one fails.

        A way back may be longer than the largest step: it leads to where the instrument was.

        Raises
        ------
        InstrumentFault
            Naming every setting that could not be put back.
        """
        optics, spectrometer = self._inner.optics, self._inner.spectrometer
        failed: list[str] = []

        def attempt(what: str, action: Callable[[], None]) -> None:
            try:
                action()
            except Exception as error:
                failed.append(f"{what} ({str(error).rstrip('.')})")

        if spectrometer is not None:
            dispersion, offset = snapshot.dispersion_ev, snapshot.energy_offset_ev
            if dispersion is not None and dispersion != spectrometer.dispersion_ev:
                attempt("the dispersion", lambda: spectrometer.set_dispersion_ev(dispersion))
            if offset is not None and offset != spectrometer.energy_offset_ev:
                attempt("the energy offset", lambda: spectrometer.set_energy_offset_ev(offset))
        if optics is not None and snapshot.optics:

            def put_back() -> None:
                present = optics.get()
                changed = {name: value for name, value in snapshot.optics.items() if present.get(name) != value}
                if changed:
                    optics.set(changed)

            attempt("the optics", put_back)
        if failed:
            raise InstrumentFault(f"These settings could not be put back: {', '.join(failed)}; check them by hand.")

    def make_safe(self) -> list[str]:
        """Blank the beam and park the probe, from any thread; an exposure under way is cancelled.

        Returns
        -------
        list of str
            What could not be done, one sentence each; empty where everything was. Never raises.
        """
        failed: list[str] = []
        # An unblanking that hangs must not keep the beam from being blanked: wait for it a moment, not for ever.
        locked = self._lock.acquire(timeout=1.0)
        try:
            in_flight = tuple(self._in_flight)
            for interrupted in in_flight:
                interrupted.set()
            blanker, scanner = self._inner.blanker, self._inner.scanner
            blanked = False
            if blanker is not None:
                try:
                    blanker.set_blanked(True)
                    blanked = True
                except Exception as error:
                    failed.append(f"The beam could not be blanked: {str(error).rstrip('.')}.")
            # Under a running exposure scan coils are left alone where the beam is off already.
            if scanner is not None and not (blanked and in_flight):
                try:
                    scanner.park_probe()
                except Exception as error:
                    failed.append(f"The probe could not be parked: {str(error).rstrip('.')}.")
        finally:
            if locked:
                self._lock.release()
        return failed
