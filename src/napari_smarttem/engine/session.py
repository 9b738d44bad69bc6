"""The session: the one object that widgets, the command line and notebooks share.

It owns the instrument, the runner, the review and the journal. It knows no window: whoever wants to see listens to its signals,
which arrive on the instrument's thread.
"""

from __future__ import annotations

import atexit
import logging
import platform
import shutil
import threading
import uuid
import weakref
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from psygnal import Signal

from .._version import __version__
from ..backends import registry
from ..backends.guard import Guard, Limits
from ..schema import (
    BadInput,
    Frame,
    InstrumentInfo,
    KeepGood,
    PlanContext,
    PlanSpec,
    Resumed,
    RunStart,
    SmartTEMError,
    StepResult,
)
from .instrument_thread import InstrumentThread
from .journal import SUFFIX, Journal
from .keep_good import with_controls
from .plans import build_plan
from .policy import Policy, parse_policy
from .review import Review
from .runner import Runner
from .status import RunStatus
from .telling import tell

log = logging.getLogger(__name__)

LOW_DISK_BYTES = 500_000_000
ACQUISITION = "acquisition"


@dataclass(frozen=True)
class Dataset:
    """A file a person opened: its name, where it lies, and what it holds."""

    name: str
    path: Path
    frames: tuple[Frame, ...]


class Session:
    """An instrument, what runs on it, and what a person says to it.

    Parameters
    ----------
    folder : Path or None
        Where runs are kept when nothing else is said; None is ``smarttem-runs`` in the home folder.
    limits : Limits or None
        Tighter limits than the instrument's own.

    Attributes
    ----------
    keep_good : KeepGood or None
        Check of the optics that every acquisition begun from now on makes on its way, where its own spec names none.

    Examples
    --------
    >>> with Session() as session:
    ...     session.connect("simulator", seed=1).result()
    ...     run = session.start(PlanSpec(kind="acquisition", settings={"points": 50}), policy="approve_all")
    ...     session.wait()
    """

    instrument_changed = Signal(object)
    """`InstrumentInfo`, or None once disconnected."""
    status_changed = Signal(object)
    """`RunStatus`."""
    step_started = Signal(object)
    """Step."""
    step_finished = Signal(object)
    """`StepResult`, once it is safe on disk."""
    run_started = Signal(object)
    """`Path` of the run folder."""
    dataset_added = Signal(object)
    """`Dataset`."""
    message = Signal(str, str)
    """Level (``"info"``, ``"warning"``, ``"error"``) and one sentence for the person."""

    def __init__(self, folder: Path | None = None, *, limits: Limits | None = None, sync: bool = True) -> None:
        self.folder = folder or Path.home() / "smarttem-runs"
        self.review = Review()
        self.datasets: list[Dataset] = []
        self.keep_good: KeepGood | None = None
        self._limits = limits
        self._sync = sync
        self._lock = threading.RLock()
        self._thread = InstrumentThread()
        self._instrument: Guard | None = None
        self._context: PlanContext | None = None
        self._runner: Runner | None = None
        self._journal: Journal | None = None
        self._run_folder: Path | None = None
        self._closed = False
        _close_at_exit(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the instrument

    @property
    def instrument(self) -> Guard | None:
        """The guarded instrument, None while nothing is connected."""
        return self._instrument

    @property
    def context(self) -> PlanContext | None:
        """Field of view, signals and timings of the connected instrument."""
        return self._context

    def connect(self, backend: str, **settings: Any) -> Future[InstrumentInfo]:
        """Connect to an instrument, on its own thread; one that is connected is let go first.

        Parameters
        ----------
        backend : str
            A name from `napari_smarttem.backends.registry.available`.
        **settings
            Those of the backend.

        Returns
        -------
        Future of InstrumentInfo
            ``result()`` waits, and raises `BadInput` or `InstrumentFault` where it could not be connected.
        """
        self._refuse_while_running("connect another instrument")
        self._leave_stuck_thread()
        return self._thread.submit(lambda: self._connect(backend, settings))

    def use(self, instrument: Any, dose_budget_e_per_a2: float | None = None) -> InstrumentInfo:
        """Use an instrument made elsewhere (a wrapped one, a notebook's own); it is guarded like any other."""
        self._refuse_while_running("change the instrument")
        return self._adopt(instrument, dose_budget_e_per_a2)

    def disconnect(self) -> Future[None]:
        """Blank, park and let go of the instrument."""
        self._refuse_while_running("disconnect")
        self._leave_stuck_thread()
        return self._thread.submit(self._let_go)

    # -- runs

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        runner = self._runner
        return RunStatus() if runner is None else runner.status

    @property
    def run_folder(self) -> Path | None:
        """Folder of the present or last run."""
        return self._run_folder

    def start(
        self,
        spec: PlanSpec,
        folder: str | Path | None = None,
        *,
        policy: str = "ask",
        dose_budget_e_per_a2: float | None = None,
    ) -> Path:
        """Begin a run.

        Parameters
        ----------
        spec : PlanSpec
            Which plan, with which settings.
        folder : path, optional
            Run folder to make; a name with date and time inside `Session.folder` where it is None.
        policy : str
            Who judges proposals; see `parse_policy`.
        dose_budget_e_per_a2 : float, optional
            The run stops before it delivers more, averaged over the field of view.

        Returns
        -------
        Path
            The run folder; everything acknowledged from now on is in it.

        Raises
        ------
        BadInput, JournalError
            Nothing was started.
        """
        with self._lock:
            self._refuse_while_running("start another run")
            instrument, context = self._require_instrument()
            judge = parse_policy(policy)
            spec = self._kept_good(spec, instrument)
            plan = build_plan(spec, context)
            start = RunStart(
                run_id=uuid.uuid4().hex,
                plan=spec,
                context=context,
                instrument=instrument.info,
                policy=policy,
                software=_software(),
                dose_budget_e_per_a2=dose_budget_e_per_a2,
            )
            journal = Journal.create(self._new_folder(folder, spec.kind), start, sync=self._sync)
            self._warn_of_little_space(journal.path)
            instrument.reset_dose(0.0)
            instrument.dose_budget_e_per_a2 = dose_budget_e_per_a2
            self.review.record = None
            self.review.clear(context.field)
            return self._launch(plan, journal, context, judge)

    def resume(
        self, folder: str | Path, *, policy: str | None = None, dose_budget_e_per_a2: float | None = None
    ) -> Path:
        """Go on with a run that was stopped, failed or killed; what is acknowledged is not measured again.

        Where no instrument is connected, the run's own is connected first.

        Parameters
        ----------
        folder : path
            The run folder.
        policy : str, optional
            Who judges from now on; as before where it is None.
        dose_budget_e_per_a2 : float, optional
            A new budget, for the whole run; as before where it is None.

        Raises
        ------
        BadInput, JournalError, InstrumentFault
            The run is complete, is written by another program, is damaged, or was made on another instrument.
        """
        with self._lock:
            self._refuse_while_running("resume another run")
            journal = Journal.open(folder, sync=self._sync)
            try:
                return self._resume(journal, policy, dose_budget_e_per_a2)
            except BaseException:
                journal.close()
                raise

    def pause(self) -> None:
        """Pause the run; the beam is blanked until `unpause`."""
        if self._runner is not None:
            self._runner.pause()

    def unpause(self) -> None:
        """Go on after a pause."""
        if self._runner is not None:
            self._runner.unpause()

    def stop(self, reason: str = "stopped by a person") -> None:
        """Stop the run; it can be resumed."""
        if self._runner is not None:
            self._runner.stop(reason)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no run goes on; False where `timeout` seconds did not suffice."""
        return True if self._runner is None else self._runner.wait(timeout)

    # -- data

    def add_dataset(self, name: str, path: str | Path, frames: tuple[Frame, ...]) -> Dataset:
        """Make a file's frames known to everyone who shares the session."""
        dataset = Dataset(name, Path(path), tuple(frames))
        self.datasets.append(dataset)
        tell(self.dataset_added, dataset)
        return dataset

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop the run, blank the beam, save, let go of the instrument. May be called twice and never raises.

        Parameters
        ----------
        timeout_s : float
            How long to wait for an instrument that does not answer; the beam is blanked from here where it does not.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.stop("the program was closed")
        if not self.wait(timeout_s):
            instrument = self._instrument
            problems = [] if instrument is None else instrument.make_safe()
            log.error("the instrument did not let go within %s s. %s", timeout_s, " ".join(problems))
        self._leave_stuck_thread()
        future = self._thread.submit(self._let_go)
        self._thread.stop()
        try:
            future.result(timeout_s)
        except (SmartTEMError, TimeoutError, OSError) as error:
            log.error("the instrument was not let go cleanly: %s", error)

    # -- inside

    def _connect(self, backend: str, settings: dict[str, Any]) -> InstrumentInfo:
        self._let_go()
        return self._adopt(registry.connect(backend, **settings), None)

    def _adopt(self, instrument: Any, dose_budget_e_per_a2: float | None) -> InstrumentInfo:
        if self._instrument is not None:
            self._let_go()
        guarded = instrument if isinstance(instrument, Guard) else Guard(instrument, limits=self._limits)
        guarded.dose_budget_e_per_a2 = dose_budget_e_per_a2
        self._context = guarded.plan_context()
        runner = Runner(guarded, self.review, launch=self._thread.submit)
        runner.status_changed.connect(self._pass_status)
        runner.step_started.connect(self._pass_started)
        runner.step_finished.connect(self._pass_finished)
        self._instrument, self._runner = guarded, runner
        tell(self.instrument_changed, guarded.info)
        return guarded.info

    def _pass_status(self, status: RunStatus) -> None:
        tell(self.status_changed, status)

    def _pass_started(self, step: Any) -> None:
        tell(self.step_started, step)

    def _pass_finished(self, result: StepResult) -> None:
        tell(self.step_finished, result)

    def _let_go(self) -> None:
        instrument, self._instrument = self._instrument, None
        self._context = None
        if instrument is None:
            return
        try:
            instrument.close()
        finally:
            tell(self.instrument_changed, None)

    def _leave_stuck_thread(self) -> None:
        """An instrument that never came back keeps its thread; letting it go needs another one."""
        if self._runner is not None and self._runner.stuck:
            self._thread.stop()
            self._thread = InstrumentThread()

    def _require_instrument(self) -> tuple[Guard, PlanContext]:
        if self._instrument is None:
            raise BadInput("No instrument is connected; connect one first.")
        # the field and the current may have changed since it was connected
        self._context = self._instrument.plan_context()
        return self._instrument, self._context

    def _refuse_while_running(self, what: str) -> None:
        if self._closed:
            raise BadInput("This session is closed.")
        if self.status.active:
            raise BadInput(f"A run is going on; stop it before you {what}.")

    def _kept_good(self, spec: PlanSpec, instrument: Guard) -> PlanSpec:
        """The spec with the check of the optics that it asks for, or that the session makes in acquisitions."""
        keep = spec.keep_good or (self.keep_good if spec.kind == ACQUISITION else None)
        return spec if keep is None else spec.model_copy(update={"keep_good": with_controls(keep, instrument)})

    def _new_folder(self, folder: str | Path | None, kind: str) -> Path:
        if folder is not None:
            return Path(folder).expanduser()
        stem = f"{datetime.now():%Y-%m-%d_%H%M%S}_{kind}"
        path, count = self.folder / f"{stem}{SUFFIX}", 1
        while path.exists():
            count += 1
            path = self.folder / f"{stem}-{count}{SUFFIX}"
        return path

    def _warn_of_little_space(self, path: Path) -> None:
        free = shutil.disk_usage(path).free
        if free < LOW_DISK_BYTES:
            tell(self.message, "warning", f"Only {free / 1e6:.0f} MB are free where the run is written ({path}).")

    def _launch(self, plan: Any, journal: Journal, context: PlanContext, policy: Policy) -> Path:
        assert self._runner is not None
        self._journal = journal
        self._run_folder = journal.path
        # a person's click must not wait for the disk: handed to the system now, forced with the next step
        self.review.record = lambda document: journal.append(document, sync=False)
        tell(self.run_started, journal.path)
        try:
            self._runner.start(plan, journal, context=context, policy=policy)
        except BaseException:
            journal.close()
            raise
        return journal.path

    def _resume(self, journal: Journal, policy: str | None, budget: float | None) -> Path:
        start = journal.start
        if journal.stop is not None and journal.stop.outcome == "finished":
            raise BadInput(f"{journal.path} is complete ({journal.stop.steps_done} steps); there is nothing to resume.")
        if self._instrument is None:
            self._thread.submit(
                lambda: self._connect(start.instrument.backend, dict(start.instrument.settings))
            ).result()
        instrument, _ = self._require_instrument()
        if other := _otherwise(instrument.info, start.instrument):
            raise BadInput(
                f"{journal.path.name} was made on another instrument than the one that is connected: {other}; disconnect it, then"
                " resume (the run's own is then connected)."
            )
        judge = parse_policy(policy or start.policy)
        plan = build_plan(start.plan, start.context)
        instrument.reset_dose(sum(step.dose_e_per_a2 for step in journal.steps.values()))
        instrument.dose_budget_e_per_a2 = start.dose_budget_e_per_a2 if budget is None else budget
        journal.append(Resumed(instrument=instrument.info, steps_done=len(journal.steps), told=True))
        self.review.record = None
        self.review.clear(start.context.field)
        return self._launch(plan, journal, start.context, judge)


def _otherwise(connected: InstrumentInfo, recorded: InstrumentInfo) -> str:
    """How an instrument differs from the one a run was made on, such as ``"seed 0, not 99"``; empty where it does not."""
    if connected.backend != recorded.backend:
        return f"{recorded.name} ({recorded.backend}), not {connected.name} ({connected.backend})"
    if not recorded.settings:
        return ""
    then, now = dict(recorded.settings), dict(connected.settings)
    names = [name for name in then | now if then.get(name) != now.get(name)]
    further = f" and {len(names) - 3} more settings" if len(names) > 3 else ""
    return ", ".join(f"{name} {then.get(name)}, not {now.get(name)}" for name in names[:3]) + further


def _software() -> dict[str, str]:
    found = {"napari-smarttem": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in ("numpy", "zarr", "hyperspy", "exspy", "rosettasciio"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _close_at_exit(session: Session) -> None:
    """Blank the beam however the interpreter ends, without keeping the session alive until then."""
    reference = weakref.ref(session)

    def close() -> None:
        living = reference()
        if living is not None:
            living.close(timeout_s=5.0)

    atexit.register(close)
    weakref.finalize(session, atexit.unregister, close)
