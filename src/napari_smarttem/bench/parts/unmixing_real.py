"""Is an answer on real data the same for other seeds and for independent halves of the counts?

Halves of the counts are noisier than the whole, so their maps differ by chance alone: a map of variance V with errors of
variance E correlates with another of its kind by ``1 - E / V`` at most. This attainable correlation, from the error bars, is
given beside the one found. Maps smoothed by what the counts of each half themselves say (`unmix(..., smooth_maps=...)`) have
far less noise and are compared too, for least error and for repeatable maps, with the error of predicting counts held out over
that without smoothing.

What can be reached at all is simulated as well: the smoothed answer of the whole file is taken for the truth, halves of the same
counts are drawn from it, and unmixed in the same ways; and once with the true spectra given, so that the maps are the best that
least squares can make of so few counts. There the distance to the truth is known too: of plain, of smoothed, of repeatable maps.

``python -m napari_smarttem.bench.parts.unmixing_real FILE ...`` prints the figures.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...schema.frame import Frame
from ...unmixing import UnmixingResult, match, unmix
from .unmixing_choices import halves

GOALS: dict[str, Any] = {"smoothed": "least error", "repeatable": "repeatable"}


@dataclass(frozen=True)
class Stability:
    """How an answer repeats itself.

    Parameters
    ----------
    components : int
        Of the whole data.
    seeds : float
        Least mean correlation of maps between the first and the other seeds.
    same_number : float
        Part of the halves in which as many components are found.
    found, attainable : tuple of float
        Per component, mean over seeds: correlation of the maps of two halves, and the largest that the noise of the halves
        allows.
    """

    components: int
    seeds: float
    same_number: float
    found: tuple[float, ...]
    attainable: tuple[float, ...]

    @property
    def of_attainable(self) -> float:
        """Mean of what was found over what can be."""
        return float(np.mean(np.asarray(self.found) / np.asarray(self.attainable)))


def attainable(result: UnmixingResult) -> np.ndarray:
    """Part of each map's variance that is not noise, by the error bars, ``(k,)``."""
    k = result.components
    variance = result.maps.reshape(k, -1).var(axis=1)
    noise = (result.map_errors.reshape(k, -1) ** 2).mean(axis=1)
    return np.asarray(np.clip(1.0 - noise / variance, 1e-3, 1.0))


def stability(frame: Frame, seeds: int = 10) -> Stability:
    """Unmix with `seeds` seeds, and as many pairs of halves."""
    whole = unmix(frame)
    repeated = min(match(whole, unmix(frame, seed=seed)).mean_correlation for seed in range(1, seeds))
    data = _counts(frame).data
    same = 0.0
    rows: dict[str, list[np.ndarray]] = {"found": [], "attainable": []}
    for seed in range(seeds):
        pair: list[UnmixingResult] = []
        for half in halves(data, seed):
            part = frame.with_data(half)
            found = unmix(part, seed=seed)
            if found.components == whole.components:
                same += 1 / (2 * seeds)
            else:
                found = unmix(part, components=whole.components, seed=seed)
            pair.append(_as_in(whole, found))
        one, other = pair
        rows["found"].append(_correlations(one.maps, other.maps))
        rows["attainable"].append(np.sqrt(attainable(one) * attainable(other)))
    means = {name: tuple(float(v) for v in np.mean(values, axis=0)) for name, values in rows.items()}
    return Stability(whole.components, repeated, same, **means)


def smoothed(frame: Frame, seeds: int, goal: str) -> dict[str, Any]:
    """Maps smoothed for `goal` of `seeds` pairs of halves: ``correlations`` of each component, ``held_out_error`` of the whole."""
    frame = _counts(frame)
    whole = unmix(frame)
    options: dict[str, Any] = {"components": whole.components, "smooth_maps": goal}
    rows = []
    for seed in range(seeds):
        one, other = (
            _as_in(whole, unmix(frame.with_data(half), seed=seed, **options)) for half in halves(frame.data, seed)
        )
        rows.append(_correlations(one.maps, other.maps))
    held_out = unmix(frame, **options).provenance["smooth_maps"]["held_out_error"]
    return {"correlations": tuple(float(v) for v in np.mean(rows, axis=0)), "held_out_error": held_out}


def simulated(frame: Frame, seeds: int) -> dict[str, tuple[float, ...]]:
    """Correlations between maps of halves of counts drawn from the smoothed answer, where that is the truth.

    Returns
    -------
    dict
        ``simulated`` as `Stability.found`; ``simulated_smoothed`` and ``simulated_repeatable`` as of `smoothed` for each of
        `GOALS`; ``simulated_known`` plain maps with the true spectra given; ``rmse_`` and the same names: distance of each to the
        true maps over their spread.
    """
    frame = _counts(frame)
    whole = unmix(frame)
    truth = _as_in(whole, unmix(frame, components=whole.components, smooth_maps=True))
    mean = np.maximum(np.tensordot(truth.maps, truth.endmembers, axes=(0, 0)), 0.0).reshape(frame.shape)
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    spread = truth.maps.reshape(whole.components, -1).std(axis=1)
    for seed in range(seeds):
        rng = np.random.default_rng([seed, 5])
        parts = [frame.with_data(rng.poisson(mean / 2).astype(np.float32)) for _ in range(2)]
        ways: dict[str, dict[str, Any]] = {
            "simulated": {},
            **{f"simulated_{name}": {"smooth_maps": goal} for name, goal in GOALS.items()},
            "simulated_known": {"method": "reference", "library": truth.endmembers},
        }
        for name, options in ways.items():
            one, other = (
                _as_in(whole, unmix(part, components=whole.components, seed=seed, **options)) for part in parts
            )
            rows[name].append(_correlations(one.maps, other.maps))
            away = (
                one.maps / one.maps.mean(axis=(1, 2), keepdims=True) * truth.maps.mean(axis=(1, 2), keepdims=True)
            ) - truth.maps
            rows[f"rmse_{name}"].append(np.sqrt((away**2).mean(axis=(1, 2))) / spread)
    return {name: tuple(float(v) for v in np.mean(values, axis=0)) for name, values in rows.items()}


def _counts(frame: Frame) -> Frame:
    """Values over what a count is worth: halves of values that are no counts would share their noise."""
    worth = max(1.0, float(unmix(frame).provenance["noise_variance"]))
    return frame.with_data(np.asarray(frame.data, dtype=np.float64) / worth)


def _as_in(whole: UnmixingResult, part: UnmixingResult) -> UnmixingResult:
    order = [pair[1] for pair in sorted(match(whole, part).pairs)]
    return part.reordered(order)


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)])


CORRELATIONS = (
    "found",
    "attainable",
    *GOALS,
    *(f"simulated{name}" for name in ("", "_smoothed", "_repeatable", "_known")),
)


def figures(path: Path, seeds: int = 10) -> dict[str, Any]:
    """Of the largest signal in a file."""
    from ...io.read import read

    frame = max(read(path), key=lambda one: one.data.size)
    found = stability(frame, seeds)
    every = {**found.__dict__, **simulated(frame, seeds)}
    for name, goal in GOALS.items():
        said = smoothed(frame, seeds, goal)
        every |= {name: said["correlations"], f"held_out_error_{name}": said["held_out_error"]}
    means = {f"mean_{name}": float(np.mean(every[name])) for name in CORRELATIONS}
    return {**every, **means, "of_attainable": found.of_attainable}


def main() -> int:
    """Measure from a terminal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    for path in options.files:
        print(path.name, json.dumps(figures(path, options.seeds)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
