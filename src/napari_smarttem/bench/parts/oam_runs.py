"""Alignments of the simulated sorter for the bench: by the plan, and by the model-free searches it is compared with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...alignment.targets.loop import LoopSettings, Outcome, align, controls_of
from ...alignment.targets.oam_sorter import OamSorterTarget
from ...backends.simulator.clock import Clock
from ...backends.simulator.sorter import CAMERA, CONTROLS, ELECTRONS_PER_S, SorterCamera, SorterControls, SorterPart
from ...physics.oam_range import HALF_RANGES, draw
from ...schema import SetOptics, StepResult, TakeImage

RESOLUTION_RATIO = 1.1
POWER_RATIO = 0.95
INSTRUMENTS = 10
"""Different sorters, whose controls do different things; what they do is learned once on each, from a start of its own."""


@dataclass(frozen=True)
class Way:
    """What one alignment did: for every picture the true resolution and power in the own bin, over those of the aligned sorter."""

    resolution: np.ndarray
    power: np.ndarray
    farthest: np.ndarray
    """Largest misalignment at every picture, in half-ranges."""
    outcome: Outcome | None = None
    pictures: tuple[np.ndarray, ...] = ()

    @property
    def good(self) -> np.ndarray:
        """Whether each picture was taken by an aligned sorter."""
        return (self.resolution <= RESOLUTION_RATIO) & (self.power >= POWER_RATIO)

    @property
    def pictures_needed(self) -> float:
        """Pictures up to and with the first good one after which all are good; infinite where the last is not."""
        good = self.good
        if not good[-1]:
            return np.inf
        bad = np.flatnonzero(~good)
        return float(bad[-1] + 2 if len(bad) else 1)

    @property
    def first_good(self) -> float:
        """Pictures up to and with the first good one, held or not."""
        good = np.flatnonzero(self.good)
        return float(good[0] + 1) if len(good) else np.inf


class Bench:
    """One simulated sorter on one day, and its truth.

    Parameters
    ----------
    target : OamSorterTarget
    instrument, session : int
        See `SorterPart`.
    electrons : float
        A picture.
    start : ndarray, shape (5,), optional
    drift : bool
    """

    def __init__(
        self,
        target: OamSorterTarget,
        instrument: int,
        session: int,
        electrons: float,
        *,
        start: np.ndarray | None = None,
        drift: bool = True,
    ) -> None:
        steady = {} if drift else {"drift_per_s": 0.0, "walk": 0.0}
        self.target = target
        self.part = SorterPart(Clock(None), instrument, session=session, start=start, **steady)
        self.camera = SorterCamera(self.part, None, None, 300e3)
        self.optics = SorterControls(self.part, None)
        self.exposure_s = electrons / ELECTRONS_PER_S
        self._seen: list[tuple[float, float, float]] = []
        self._pictures: list[np.ndarray] = []
        self._go = threading.Event()

    def picture(self) -> Any:
        """Expose, and note the truth at that moment."""
        at = self.part.misalignment(self.part.clock.now_s() + 0.5 * self.exposure_s)
        table = self.target.sorter.optics.largest_df
        resolution, power = self.target.quality(np.clip(at, [-table, *[-np.inf] * 4], [table, *[np.inf] * 4]))
        aligned = self.target.aligned
        self._seen.append((resolution / aligned[0], power / aligned[1], float(np.abs(at / HALF_RANGES).max())))
        frame = self.camera.acquire_image(self.exposure_s, self._go, CAMERA)
        self._pictures.append(np.asarray(frame.data))
        return frame

    def way(self, outcome: Outcome | None = None) -> Way:
        """What has happened so far."""
        resolution, power, farthest = np.array(self._seen).T
        return Way(resolution, power, farthest, outcome, tuple(self._pictures))

    def by_plan(self, **settings: Any) -> Way:
        """Align by the plan."""
        checked = LoopSettings.model_validate(
            {"controls": controls_of(self.optics), "exposure_s": self.exposure_s, **settings}
        )
        plan = align(self.target, checked)
        try:
            step = next(plan)
            while True:
                started = self.part.clock.now_s()
                frames = (self.picture(),) if isinstance(step, TakeImage) else ()
                if isinstance(step, SetOptics):
                    self.optics.set(step.values)
                result = StepResult(step=step, frames=frames, started_s=started, finished_s=self.part.clock.now_s())
                step = plan.send(result)
        except StopIteration as end:
            return self.way(end.value)

    def sharpness(self, values: np.ndarray) -> float:
        """Set the controls to `values`, in half-ranges of each along its own misalignment, and see how sharp the spectrum is."""
        size = HALF_RANGES / np.abs(np.diag(self.part.response))
        raw = np.clip(values * size, -999.0, 999.0)
        self.optics.set(dict(zip(CONTROLS, raw.tolist(), strict=True)))
        counts = self.target.counts(self.picture())
        spectrum = counts.sum(axis=0)
        middle = len(spectrum) // 2
        # light near l = 0 counts double, or a sharp line elsewhere would do as well
        return float(
            np.sum(spectrum**2) / np.sum(spectrum) ** 2 + spectrum[middle - 1 : middle + 1].sum() / np.sum(spectrum)
        )


def nelder_mead(bench: Bench, pictures: int) -> Way:
    """The simplex search on sharpness, as one would do it by hand with patience."""
    from scipy.optimize import minimize

    simplex = np.concatenate((np.zeros((1, 5)), 0.5 * np.eye(5)))
    minimize(
        lambda values: -bench.sharpness(values),
        np.zeros(5),
        method="Nelder-Mead",
        options={"maxfev": pictures, "initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-4},
    )
    return bench.way()


def spsa(bench: Bench, pictures: int, rng: np.random.Generator) -> Way:
    """Simultaneous perturbation on sharpness (Spall's gains), two pictures a step."""
    values = np.zeros(5)
    for k in range(pictures // 2):
        step, probe = 0.3 / (k + 10) ** 0.602, 0.15 / (k + 1) ** 0.101
        sign = rng.choice((-1.0, 1.0), 5)
        gained = bench.sharpness(values + probe * sign) - bench.sharpness(values - probe * sign)
        values = np.clip(values + np.clip(step * gained / (2 * probe) * sign, -0.1, 0.1), -2.5, 2.5)
        if (k + 1) % 10 == 0:
            bench.sharpness(values)
    bench.sharpness(values)
    return bench.way()


def learned_responses(target: OamSorterTarget, electrons: float, seed: int, count: int = INSTRUMENTS) -> list[Any]:
    """What the controls of each sorter do, as the plan learns it on an earlier day; one matrix each, and the pictures it took."""
    learned = []
    for instrument in range(count):
        bench = Bench(target, 1000 * seed + instrument, 0, electrons)
        way = bench.by_plan()
        assert way.outcome is not None
        learned.append((way.outcome.response, len(way.good), way.outcome.verdict))
    return learned


def align_many(
    count: int,
    electrons: float,
    seed: int,
    act: Callable[[Bench, Any, np.random.Generator], Way],
    *,
    target: OamSorterTarget,
    responses: list[Any],
    reach: float = 1.0,
) -> list[Way]:
    """`act` on `count` random misalignments within `reach` half-ranges; the same ones for every way of acting."""
    rng = np.random.default_rng([seed, 31])
    starts = draw(count, rng, reach)
    ways = []
    for k, start in enumerate(starts):
        instrument = k % len(responses)
        bench = Bench(target, 1000 * seed + instrument, 1 + k, electrons, start=start)
        ways.append(act(bench, responses[instrument][0], np.random.default_rng([seed, 37, k])))
    return ways
