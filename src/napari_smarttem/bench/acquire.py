"""How well the places are chosen, and how well they are still met after the specimen has drifted.

``boundary_fraction_CHOOSER``: the fraction of a chooser's points that fall on a particle or within a pixel of a boundary (of a
particle, or between two phases), mean over simulated specimens whose truth is known; random and grid, at the same number of
points, are the baselines. The simulated polymer blend is not among them: its phases have one brightness, so that nothing that
looks at the overview can find them.

``boundary_fraction_recorded_CHOOSER``: the same on a recorded EDS map of FePt core-shell particles. There the chooser sees the
counts of all channels summed, and the reference is made of the element lines alone: particles are where Fe K (net of the
background beside it) exceeds Otsu's threshold, cores where Pt M does; boundaries are the rims of both. The noise of the two is
not independent, since one recording gives both.

``drift_residual_px_rms``: distance between the place that the probe hit on the specimen and the place that was chosen, rms over
all points of runs with a drift of 1 px/s, from the simulator's own drift. Baselines: no correction, and holding the last
measured shift.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ..acquisition import AcquisitionSettings, parse
from ..acquisition.choosers import propose
from ..backends.registry import connect
from ..engine.session import Session
from ..schema import Acquire, Frame, Note, PlanSpec, StepResult
from .report import figure, report

CHOOSERS = ("edges", "clusters", "anomalies", "regions")
BASELINES = ("random", "grid")
SPECIMENS = ("core-shell", "two-phase")
POINTS = 100
RECORDED_POINTS = 60
PIXEL_NM = 200.0 / 256.0


def run(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Measure; the figures of ``smarttem bench acquire``."""
    fractions = simulated_fractions(range(seed, seed + (1 if quick else 3)))
    figures = {f"boundary_fraction_{name}": _fraction_figure(name, fractions) for name in CHOOSERS}
    file = recorded_file()
    recorded = recorded_fractions(file, range(seed, seed + (1 if quick else 3))) if file else {}
    for name in CHOOSERS:
        figures[f"boundary_fraction_recorded_{name}"] = _fraction_figure(name, recorded)
    residuals = [drift_residuals(s, points=120 if quick else 300) for s in range(seed, seed + (1 if quick else 4))]
    met, held, uncorrected = (np.concatenate([r[kind] for r in residuals]) for kind in range(3))
    figures["drift_residual_px_rms"] = figure(
        _rms(met), "<=", 0.3, last_shift_held=_rms(held), uncorrected=_rms(uncorrected)
    )
    return report("acquire", seed, figures)


def _fraction_figure(name: str, fractions: dict[str, float]) -> dict[str, Any]:
    """A chooser is to hit at least half as often again as the better baseline, or 95 of 100."""
    if name not in fractions:
        return figure(None, ">=", None, **dict.fromkeys(BASELINES))
    baselines = {baseline: fractions[baseline] for baseline in BASELINES}
    return figure(fractions[name], ">=", min(0.95, 1.5 * max(baselines.values())), **baselines)


def _rms(distances: np.ndarray) -> float:
    return float(np.sqrt(np.mean(distances**2)))


# -- where the points fall


def simulated_fractions(seeds: range) -> dict[str, float]:
    """Mean fraction of hits by chooser over specimens and seeds."""
    hits: dict[str, list[float]] = {name: [] for name in (*CHOOSERS, *BASELINES)}
    for specimen in SPECIMENS:
        for seed in seeds:
            instrument: Any = connect("simulator", specimen=specimen, seed=seed, speed=None)
            overview = _overview(instrument, (256, 256))
            truth = instrument.ground_truth(shape=overview.shape)
            particles = np.isin(
                truth.labels, [k for k, name in enumerate(truth.label_names) if name in ("core", "shell")]
            )
            reference = particles | widened(np.asarray(truth.boundaries))
            for name, found in hits.items():
                found.append(hit_fraction(overview, reference, name, POINTS, seed))
            instrument.close()
    return {name: float(np.mean(found)) for name, found in hits.items()}


def recorded_fractions(file: Path, seeds: range) -> dict[str, float]:
    """Mean fraction of hits by chooser on the recorded core-shell particles."""
    instrument: Any = connect("replay", file=str(file))
    overview = _overview(instrument, instrument.scanner.native_shape)
    instrument.close()
    reference = recorded_reference(file)
    return {
        name: float(np.mean([hit_fraction(overview, reference, name, RECORDED_POINTS, seed) for seed in seeds]))
        for name in (*CHOOSERS, *BASELINES)
    }


def hit_fraction(overview: Frame, reference: np.ndarray, chooser: str, points: int, seed: int) -> float:
    """Fraction of a chooser's points on the True pixels of `reference`, shape (y, x)."""
    settings = parse(AcquisitionSettings(chooser=chooser, points=points, seed=seed))
    targets = propose(overview, settings)
    y, x = overview.axes
    rows = np.clip(np.rint([y.index(t.y_nm) for t in targets]), 0, overview.shape[0] - 1).astype(int)
    columns = np.clip(np.rint([x.index(t.x_nm) for t in targets]), 0, overview.shape[1] - 1).astype(int)
    return float(reference[rows, columns].mean()) if targets else 0.0


def _overview(instrument: Any, shape: tuple[int, int]) -> Frame:
    if instrument.blanker is not None:
        instrument.blanker.set_blanked(False)
    scanner = instrument.scanner
    (frame,) = scanner.scan(
        field=scanner.field, shape=shape, dwell_s=10e-6, signals=scanner.signals[:1], cancel=threading.Event()
    )
    return frame  # type: ignore[no-any-return]


def widened(boundaries: np.ndarray) -> np.ndarray:
    """Boundaries and the pixels beside them."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(boundaries, np.ones((3, 3), dtype=bool)))


def recorded_file() -> Path | None:
    """The recorded core-shell particles: in the folder SMARTTEM_DATA names, or beside the checkout; None where absent."""
    stated = os.environ.get("SMARTTEM_DATA")
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    file = (Path(stated) if stated else beside) / "core_shell.hspy"
    return file if file.is_file() else None


def recorded_reference(file: Path) -> np.ndarray:
    """Particles and the boundaries of their cores, shape (y, x), from the element lines of the whole recording."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    from ..io.read import read

    image = max(read(file), key=lambda frame: frame.data.size)
    counts = np.asarray(image.data, dtype=float)
    energy = image.coordinates(image.axes[2].name)

    def line(low: float, high: float, beside: tuple[float, float]) -> np.ndarray:
        inside = (energy >= low) & (energy < high)
        outside = (energy >= beside[0]) & (energy < beside[1])
        net = counts[..., inside].sum(-1) - counts[..., outside].mean(-1) * inside.sum()
        return np.asarray(ndimage.gaussian_filter(net, 1.0))

    iron = line(6250.0, 6560.0, (5300.0, 6100.0))
    platinum = line(1940.0, 2240.0, (2400.0, 2800.0))
    particles = iron > threshold_otsu(iron)
    cores = platinum > threshold_otsu(platinum)
    rim = particles & ~ndimage.binary_erosion(particles, border_value=1)
    return np.asarray(particles | cores | widened(rim))


# -- drift


def drift_residuals(seed: int, *, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances in overview pixels, one a point, shape (n,): as met, with the last shift held, and without correction."""
    direction = np.random.default_rng([seed, 11]).uniform(0.0, 2.0 * math.pi)
    drift = (PIXEL_NM * math.sin(direction), PIXEL_NM * math.cos(direction))
    results: list[StepResult] = []
    with tempfile.TemporaryDirectory() as folder, Session(sync=False) as session:
        session.connect("simulator", seed=seed, speed=None, drift_nm_per_s=drift).result()
        assert session.instrument is not None
        simulator: Any = session.instrument.unwrapped
        truth = simulator.column.drift
        session.step_finished.connect(results.append)
        spec = PlanSpec(kind="acquisition", settings={"points": points, "chooser": "edges", "seed": seed})
        session.start(spec, Path(folder) / "drift.smarttem", policy="approve_all")
        session.wait()
        return _residuals(results, truth)


def _residuals(results: list[StepResult], truth: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    overview = next(r for r in results if r.step.step_id == "overview-0").frames[0]
    began, ended = (float(overview.metadata[f"exposure_{word}_s"]) for word in ("started", "finished"))  # type: ignore[arg-type]
    held = np.zeros(2)
    met_px: list[float] = []
    held_px: list[float] = []
    uncorrected_px: list[float] = []
    for result in results:
        if isinstance(result.step, Note) and result.step.data.get("used"):
            held = np.array([result.step.data["dy_nm"], result.step.data["dx_nm"]], dtype=float)
        if not isinstance(result.step, Acquire) or not result.ok:
            continue
        metadata = result.frames[0].metadata
        middle = 0.5 * (float(metadata["exposure_started_s"]) + float(metadata["exposure_finished_s"]))  # type: ignore[arg-type]
        chosen = np.array([result.step.y_nm, result.step.x_nm]) - result.step.drift_nm
        row = overview.axes[0].index(float(chosen[0]))
        seen_s = began + (row + 0.5) / overview.shape[0] * (ended - began)
        # What the specimen did between being seen and being measured, and what the probe followed of it.
        moved = truth.at(middle) - truth.at(seen_s)
        for distances, followed in (
            (met_px, np.array(result.step.drift_nm)),
            (held_px, held),
            (uncorrected_px, np.zeros(2)),
        ):
            distances.append(float(np.hypot(*(followed - moved))) / PIXEL_NM)
    return np.array(met_px), np.array(held_px), np.array(uncorrected_px)
