"""A program with one run in it, made to be killed: says on standard output what it begins and what is acknowledged.

One JSON object a line: ``{"began": step id}``, ``{"acknowledged": step id, "replayed": bool}``, and at the end
``{"outcome", "reason", "blanked"}``. Used by the crash bench and its tests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from ...backends import registry
from ...backends.faults import Fault, Faulty
from ...engine.session import Session
from ...schema import PlanSpec, SmartTEMError

SETTINGS: dict[str, Any] = {
    "overview_shape": [96, 96],
    "chooser": "edges",
    "points": 120,
    "exposure_s": 0.02,
    "drift_every": 20,
}
SINGLE_PIXEL: dict[str, Any] = {
    "pixels": 16,
    "patterns": 96,
    "batch": 8,
    "pool": 200,
    "check_every": 4,
    "check_patterns": 3,
}
KINDS = ("acquisition", "single_pixel", "bridge")
"""On the simulated microscope, with its phase plate, and through a socket to a server in a fake GMS."""


def say(**line: Any) -> None:
    """One line, out of this process before anything else happens."""
    os.write(1, (json.dumps(line) + "\n").encode())


def main() -> None:
    """Start or resume a run, and tell of it until it ends or the program is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--points", type=int, default=SETTINGS["points"])
    parser.add_argument("--fault", default="")
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--largest-file", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument("--plate", default="", help="calibrated phase plate, for single_pixel")
    parser.add_argument("--address", default="", help="of the server, for bridge; its token is in SMARTTEM_DM_TOKEN")
    options = parser.parse_args()
    if options.largest_file:
        _limit_files(options.largest_file)
    with Session(options.folder.parent) as session:
        instrument = _instrument(options)
        faults = [Fault(options.fault, at=(options.at,), seconds=2.0)] if options.fault else []
        session.use(Faulty(instrument, faults, seed=options.seed) if faults else instrument)
        session.step_started.connect(lambda step: say(began=step.step_id))
        session.step_finished.connect(lambda r: say(acknowledged=r.step.step_id, replayed=r.replayed))
        try:
            if options.resume:
                session.resume(options.folder)
            else:
                session.start(_spec(options), options.folder, policy="approve_above:0.2")
            session.wait()
            outcome, reason = session.status.outcome, session.status.reason
        except SmartTEMError as error:
            outcome, reason = "refused", str(error)
        blanked = instrument.blanker is not None and instrument.blanker.blanked
        with contextlib.suppress(BrokenPipeError):
            say(outcome=outcome, reason=reason, blanked=blanked)
    sys.exit(0)


def _instrument(options: argparse.Namespace) -> Any:
    if options.kind == "bridge":
        return registry.connect("digitalmicrograph", address=options.address, overview_pixels=96, beam_current_pa=50.0)
    return registry.connect(
        "simulator",
        specimen="core-shell",
        seed=options.seed,
        speed=None,
        phase_plate=options.kind == "single_pixel",
    )


def _spec(options: argparse.Namespace) -> PlanSpec:
    if options.kind == "single_pixel":
        return PlanSpec(kind="single_pixel", settings=SINGLE_PIXEL | {"calibration_file": options.plate})
    return PlanSpec(kind="acquisition", settings=SETTINGS | {"seed": options.seed, "points": options.points})


def _limit_files(size: int) -> None:
    """Let the system refuse to make any file larger than `size` bytes, as a full disk would."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


if __name__ == "__main__":
    main()
