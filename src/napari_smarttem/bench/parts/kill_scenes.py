"""Where the runs take place that the crash bench kills, and what is compared with a run that nobody has killed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engine.journal import Journal
from ...engine.plans import build_plan
from ...schema import Acquire, Note, StepResult
from .run_to_kill import KINDS

BEAM_OFF_WITHIN_S = 30.0
"""After a client was killed; the server notices at once, a crowded machine may not."""


@dataclass(frozen=True)
class Scene:
    """What a program of `run_to_kill` needs beside folder and seed.

    Attributes
    ----------
    kind : str
        One of `run_to_kill.KINDS`.
    arguments : tuple of str
        Of its command line.
    environment : mapping
        Added to the present one.
    server : object or None
        The fake GMS that goes on while its client is killed.
    """

    kind: str = KINDS[0]
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    server: Any = None

    def beam_left_on(self) -> str:
        """Why the beam is not safe after the client was killed; empty where it is, or where it went with the program."""
        if self.server is None:
            return ""
        gms, until = self.server.gms, time.monotonic() + BEAM_OFF_WITHIN_S
        while time.monotonic() < until:
            if gms.world.blanked and gms.digiscan.beam == gms.digiscan.safe:
                return ""
            time.sleep(0.02)
        return "the server left the beam on after its client was killed"


@contextlib.contextmanager
def scene(kind: str, scratch: Path, seed: int) -> Iterator[Scene]:
    """A scene for one run and its resume.

    Parameters
    ----------
    kind : str
        One of `run_to_kill.KINDS`.
    scratch : Path
        Where a calibrated phase plate may be kept.
    seed : int
        Of the microscope.
    """
    if kind == "single_pixel":
        plate = scratch / f"plate-{seed}.npz"
        if not plate.exists():
            _calibrated(plate, seed)
        yield Scene(kind, ("--kind", kind, "--plate", str(plate)))
    elif kind == "bridge":
        from ...backends.digitalmicrograph.fake_gms import run

        token = secrets.token_hex(8)
        with run(speed=None, seed=seed, token=token) as server:
            arguments = ("--kind", kind, "--address", server.address)
            yield Scene(kind, arguments, {**os.environ, "SMARTTEM_DM_TOKEN": token}, server)
    else:
        yield Scene()


def _calibrated(file: Path, seed: int) -> None:
    """The simulator's own plate, as a perfect calibration finds it."""
    import numpy as np

    from ...backends.registry import connect
    from ...physics.caustics_basis import coefficients
    from ...single_pixel.predict import Decoder

    instrument: Any = connect("simulator", specimen="core-shell", seed=seed, speed=None, phase_plate=True)
    caustics = instrument.phase_plate.caustics
    instrument.close()
    optics = caustics.optics
    globals_ = [0.0, np.log(optics.source_px), optics.stretch, optics.shear, optics.barrel, optics.falloff]
    Decoder(coefficients(caustics.plate, optics), np.array(globals_), error=0.01).save(file)


def essence(folder: Path) -> dict[str, Any]:
    """What a run must have in the end, whenever it was killed: its points, or its pictures and number of patterns."""
    with Journal.open(folder, read_only=True) as journal:
        done = list(journal.steps.values())
        points = sorted(d.step.step_id for d in done if isinstance(d.step, Acquire))
        notes = {d.step.step_id: d.step for d in done if isinstance(d.step, Note)}
        if journal.start.plan.kind != "single_pixel":
            return {"points": points}
        pictures = sorted(name for name in notes if name.startswith("picture-"))
        end = notes.get("end")
        return {"pictures": pictures, "patterns": None if end is None else end.data["patterns"]}


def asks_otherwise(folder: Path) -> str:
    """How the plan, made once more and sent the record's results, departs from the record; empty where it does not.

    Only then can a run be taken up at any step, again and again.
    """
    with Journal.open(folder, read_only=True) as journal:
        plan = build_plan(journal.start.plan, journal.start.context)
        result: StepResult | None = None
        asked = 0
        try:
            while True:
                step = next(plan) if result is None else plan.send(result)
                if step.step_id not in journal.steps:
                    return f"the plan asks for {step.step_id}, which is not in the record"
                result = journal.result(step.step_id)
                asked += 1
                if json.loads(step.model_dump_json()) != json.loads(result.step.model_dump_json()):
                    return f"the plan asks for another {step.step_id} than the record holds"
        except StopIteration:
            missing = len(journal.steps) - asked
            return f"{missing} steps of the record are not asked for" if missing else ""
        finally:
            plan.close()
