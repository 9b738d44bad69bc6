"""Runs without a window: ``smarttem acquire`` and ``resume``, with a progress line and a Ctrl-C that stops cleanly."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from .acquisition.settings import parse
from .engine.journal import Journal
from .engine.session import Session
from .engine.status import RunState
from .schema import BadInput, InstrumentInfo, KeepGood, PlanSpec

_POLL_S = 0.05
_PLAIN_LINE_EVERY_S = 10.0


def acquire(options: argparse.Namespace) -> int:
    """Connect, acquire into a new run folder, and say what came of it; returns the exit status."""
    settings = plan_settings(options)
    parse(settings)  # before anything is connected or made: one sentence about what cannot be
    policy = review_policy(options.approve)
    with _open_session(sync=not options.no_sync) as session:
        info = session.connect(options.backend, **backend_settings(options)).result()
        print(f"{info.name}{_simulated_mark(info)}", file=sys.stderr)
        recorded_s = info.details.get("recorded_exposure_s")
        if recorded_s:  # a recording holds no longer exposure than its own, and thinning it needs a reason
            settings.setdefault("exposure_s", recorded_s)
        spec = PlanSpec(kind="acquisition", settings=settings, keep_good=kept_good(options, settings))
        folder = session.start(spec, options.out, policy=policy, dose_budget_e_per_a2=options.dose_budget)
        return _follow(session, folder, policy, as_json=options.json)


def resume(options: argparse.Namespace) -> int:
    """Go on with a run folder on the instrument it was begun with; returns the exit status."""
    with Journal.open(options.run_folder, read_only=True) as journal:
        begun_with = journal.start.policy
    policy = begun_with if options.approve is None else review_policy(options.approve)
    with _open_session() as session:
        return _follow(session, session.resume(options.run_folder, policy=policy), policy, as_json=options.json)


def single_pixel(options: argparse.Namespace) -> int:
    """Connect, image with structured illumination into a new run folder, and say what came of it; returns the exit status."""
    from .single_pixel.settings import parse as parse_single_pixel

    settings = key_values(options.set, "--set")
    named = {
        "generator": options.generator,
        "rule": options.rule,
        "pixels": options.pixels,
        "patterns": options.patterns,
        "calibration_file": None if options.plate is None else str(options.plate),
        "calibrate_only": options.calibrate_only or None,
        "seed": options.seed,
    }
    settings.update({name: value for name, value in named.items() if value is not None})
    parse_single_pixel(settings)
    policy = review_policy(options.approve)
    backend = key_values(options.backend_setting, "--backend-setting")
    if options.backend == "simulator":
        backend = {"phase_plate": True, "speed": None, "seed": options.seed or 0} | backend
    with _open_session() as session:
        info = session.connect(options.backend, **backend).result()
        print(f"{info.name}{_simulated_mark(info)}", file=sys.stderr)
        folder = session.start(PlanSpec(kind="single_pixel", settings=settings), options.out, policy=policy)
        return _follow(session, folder, policy, as_json=options.json)


# -- options into settings --------------------------------------------------------------------------------------------


def backend_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Settings for `registry.connect`, from the options that were given."""
    settings: dict[str, Any] = key_values(options.backend_setting, "--backend-setting")
    if options.file is not None:
        settings["file"] = str(options.file)
    if options.specimen is not None:
        settings["specimen"] = options.specimen
    if options.speed is not None:
        settings["speed"] = options.speed
    if options.backend == "simulator":
        settings.setdefault("speed", None)
        if options.seed is not None:
            settings.setdefault("seed", options.seed)
    return settings


def plan_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the acquisition plan, from the options that were given; the plan knows the defaults."""
    settings = key_values(options.set, "--set")
    named = {
        "chooser": options.choose,
        "points": options.points,
        "time_budget_s": options.time_budget,
        "dose_budget_e_per_a2": options.dose_budget,
        "exposure_s": options.exposure,
        "drift_every": options.drift_every,
        "seed": options.seed,
    }
    settings.update({name: value for name, value in named.items() if value is not None})
    chooser = key_values(options.chooser_setting, "--chooser-setting")
    if chooser:
        settings["chooser_settings"] = chooser
    return settings


def kept_good(options: argparse.Namespace, settings: Mapping[str, Any]) -> KeepGood | None:
    """The check of the optics that ``--keep-good`` asks for: nobody is there to be asked, so what is off is corrected."""
    if options.keep_good is None:
        return None
    if options.keep_good < 1:
        raise BadInput(f"--keep-good takes a whole number from 1 on, not {options.keep_good}.")
    before: Literal["image", "point"] = "point" if settings.get("image_nm") is None else "image"
    return KeepGood(before=before, every=options.keep_good, settings={"mode": "correct"})


def review_policy(approve: str) -> str:
    """Policy text for ``--approve``: a score, ``all`` or ``file:PATH``."""
    if approve == "all":
        return "approve_all"
    if approve.startswith("file:"):
        return approve
    try:
        score = float(approve)
    except ValueError:
        raise BadInput(f"--approve takes a score between 0 and 1, 'all' or 'file:PATH', not {approve!r}.") from None
    return f"approve_above:{score:g}"


def key_values(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """``KEY=VALUE`` pairs as a dict; a value is read as JSON where it is JSON, else taken as it stands."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise BadInput(f"{option} takes KEY=VALUE, not {pair!r}.")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


# -- the run ----------------------------------------------------------------------------------------------------------


@contextmanager
def _open_session(*, sync: bool = True) -> Iterator[Session]:
    """A session that is closed (beam blanked, record saved, instrument let go) however the block ends."""
    session = Session(sync=sync)
    previous = signal.signal(signal.SIGTERM, _as_interrupt)  # a batch system's "please stop" stops as cleanly as Ctrl-C
    try:
        yield session
    finally:
        session.close()
        signal.signal(signal.SIGTERM, previous)


def _as_interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _simulated_mark(info: InstrumentInfo) -> str:
    return " [SIMULATED]" if info.simulated and "SIMULATED" not in info.name else ""


def _follow(session: Session, folder: Path, policy: str, *, as_json: bool) -> int:
    """Show progress until the run has ended; Ctrl-C stops it cleanly and says how to go on."""
    progress = _progress_line()
    began = time.monotonic()
    interrupted = False
    asks_a_person = policy == "ask"
    while True:
        try:
            if session.wait(_POLL_S):
                break
            progress(session.status, False)
            if session.status.state is RunState.AWAITING_REVIEW and asks_a_person:
                session.stop("it waits for a person: give --approve, or resume it in the window")
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            print("\nsmarttem: stopping; the beam is being blanked (Ctrl-C again to give up waiting)", file=sys.stderr)
            session.stop("stopped with Ctrl-C")
    status = session.status
    progress(status, True)
    summary = {
        "run": str(folder),
        "outcome": status.outcome,
        "reason": status.reason,
        "steps": status.steps_done,
        "dose_e_per_a2": status.dose_e_per_a2,
        "wall_s": round(time.monotonic() - began, 3),
    }
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        print(f"{folder}: {status.outcome} after {status.steps_done} steps, {status.dose_e_per_a2:.4g} e/Å²")
    if status.outcome == "finished":
        return 0
    why = f" because {status.reason}" if status.reason else ""
    print(
        f"smarttem: the run {status.outcome or 'ended'}{why.rstrip('.')}. What was measured is safe; go on with: "
        f"smarttem resume {folder}",
        file=sys.stderr,
    )
    return 130 if interrupted else 1


def _progress_line() -> Callable[[Any, bool], None]:
    """A function that shows a status: over and over on one line of a terminal, else a line every ten seconds."""
    live = sys.stderr.isatty()
    last = [time.monotonic(), -1.0]

    def show(status: Any, final: bool) -> None:
        now = time.monotonic()
        if not live and not (final or now - last[0] >= _PLAIN_LINE_EVERY_S):
            return
        last[0] = now
        total = f"/{status.steps_total}" if status.steps_total else ""
        left = "" if status.remaining_s is None or final else f", {status.remaining_s:.0f} s left"
        dose = f", {status.dose_e_per_a2:.3g} e/Å²" if status.dose_e_per_a2 else ""
        text = f"{status.state.value}: {status.steps_done}{total} steps{left}{dose}"
        sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if final else "") if live else text + "\n")
        sys.stderr.flush()

    return show
