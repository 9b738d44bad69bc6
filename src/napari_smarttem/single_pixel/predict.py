"""From biases to the pattern on the specimen, by a physical decoder with few unknowns: what predicts in a millisecond.

The decoder knows how electrons propagate and nothing of the plate but its design: the phase is linear in the biases, in the maps of
`physics.caustics_basis`; gain, source size, distortion of the camera and fall-off of the illumination are unknown, too.
`single_pixel.calibrate` finds these numbers from measured patterns.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..physics.caustics import detector_matrix, fourier_rows, pupil_grid
from ..physics.caustics_basis import GLOBALS, HARMONICS, TERMS, basis, design_prior
from ..schema import BadInput
from .residual import TERMS as RESIDUAL_TERMS
from .residual import corrected

FIELD_WAVES = 32.0


@dataclass(frozen=True)
class Decoder:
    """Biases -> pattern.

    Parameters
    ----------
    coefficients : ndarray, shape (TERMS, needles + 1)
        Phase in rad for a volt on each needle, and without bias.
    globals_ : ndarray, shape (len(GLOBALS),)
    pixels : int
        Side of a pattern.
    bias_offset_v : ndarray, shape (needles,)
        What charging has added to the biases since the calibration.
    error : float
        Relative error of a predicted pattern, measured on patterns that were not fitted: NRMSE, ``|p - t| / |t|``.
    dead : mapping of int to float
        Needles that do not respond, and the bias in V at which they stand.
    residual : ndarray, shape (residual.TERMS,), optional
        The learned part, see `single_pixel.residual`; None: physics alone.
    """

    coefficients: np.ndarray
    globals_: np.ndarray
    pixels: int = 64
    bias_offset_v: np.ndarray | None = None
    error: float = 0.1
    dead: Mapping[int, float] = field(default_factory=dict)
    field_waves: float = FIELD_WAVES
    residual: np.ndarray | None = None

    @classmethod
    def nominal(cls, pixels: int = 64) -> Decoder:
        """The decoder of the design, before anything was measured."""
        prior = design_prior(pixels)
        return cls(prior.mean, prior.globals_mean, pixels, error=1.0)

    @property
    def needles(self) -> int:
        """Number of needles."""
        return int(self.coefficients.shape[1]) - 1

    @property
    def defocus_rad(self) -> float:
        """Defocus without bias, phase at the rim of the aperture."""
        return float(self.coefficients[2 * HARMONICS, -1])

    @property
    def samples(self) -> int:
        """Of the pupil, along a side: as many as a pattern of 64 pixels needs."""
        return 64

    @property
    def points(self) -> int:
        """Of the intensity, along a side."""
        return max(64, self.pixels)

    @functools.cached_property
    def detector(self) -> Any:
        """Intensity -> camera; see `physics.caustics.detector_matrix`."""
        return self.detector_for(self.globals_)

    def detector_for(self, globals_: np.ndarray) -> Any:
        """The camera for other globals."""
        named = dict(zip(GLOBALS, globals_, strict=True))
        return detector_matrix(
            self.pixels,
            self.points,
            float(np.clip(np.exp(named["log_source"]), 0.3, 5.0)),
            stretch=named["stretch"],
            shear=named["shear"],
            barrel=named["barrel"],
        ) * float(np.exp(named["log_gain"]))

    def features(self, biases_v: np.ndarray) -> np.ndarray:
        """Biases as they act, and a one: shape (n, needles + 1)."""
        biases = np.array(np.atleast_2d(biases_v), dtype=float)
        if biases.shape[1] != self.needles:
            raise BadInput(f"a pattern has {self.needles} biases, got {biases.shape[1]}.")
        for needle, stands_at in self.dead.items():
            biases[:, needle] = stands_at
        if self.bias_offset_v is not None:
            biases = biases + self.bias_offset_v
        return np.concatenate((biases, np.ones((len(biases), 1))), axis=1)

    def amplitude(self) -> np.ndarray:
        """Of the wave over the pupil; squares sum to one."""
        return _amplitude(self.samples, float(self.globals_[-1]))

    def phases(
        self, biases_v: np.ndarray, shift_px: np.ndarray | None = None, defocus_rad: np.ndarray | None = None
    ) -> np.ndarray:
        """Phase over the pupil in rad, shape (n, samples, samples).

        `shift_px` (n, 2) is a beam shift (y, x) in pixels, `defocus_rad` (n,) an added defocus, phase at the rim.
        """
        terms = self.features(biases_v) @ self.coefficients.T
        if shift_px is not None:
            tilt = np.pi * self.field_waves / self.pixels * np.atleast_2d(shift_px)
            terms[:, 0] += tilt[:, 1]  # the first map is x, the second y
            terms[:, 1] += tilt[:, 0]
        if defocus_rad is not None:
            terms[:, 2 * HARMONICS] += np.atleast_1d(defocus_rad)  # the first map that is not harmonic is r²
        maps = basis(self.samples).reshape(TERMS, -1)
        return np.asarray((terms.astype(np.float32) @ maps).reshape(-1, self.samples, self.samples))

    def predict(
        self, biases_v: np.ndarray, shift_px: np.ndarray | None = None, defocus_rad: np.ndarray | None = None
    ) -> np.ndarray:
        """Patterns, shape (n, pixels, pixels), fraction of the beam per pixel; arguments as of `phases`."""
        biases_v = np.atleast_2d(biases_v)
        rows = fourier_rows(self.samples, self.points, self.field_waves)
        scale = (self.field_waves / (self.points * self.samples)) ** 2
        amplitude = self.amplitude()
        found = np.empty((len(biases_v), self.pixels, self.pixels), dtype=np.float32)
        for start in range(0, len(biases_v), 64):
            part = slice(start, start + 64)
            phase = self.phases(
                biases_v[part],
                None if shift_px is None else np.atleast_2d(shift_px)[part],
                None if defocus_rad is None else np.atleast_1d(defocus_rad)[part],
            )
            wave = np.matmul(rows, (amplitude * np.exp(1j * phase)).astype(np.complex64)) @ rows.T
            intensity = (wave.real**2 + wave.imag**2).reshape(len(phase), -1) * np.float32(scale)
            found[part] = (self.detector @ intensity.T).T.reshape(-1, self.pixels, self.pixels)
            if self.residual is not None:
                found[part] = corrected(found[part], self.residual)
        return found

    def with_offset(self, bias_offset_v: np.ndarray) -> Decoder:
        """The same decoder after charging."""
        return replace(self, bias_offset_v=np.asarray(bias_offset_v, dtype=float))

    def save(self, file: Path) -> None:
        """Write everything into a ``.npz`` of plain arrays."""
        offset = np.zeros(self.needles) if self.bias_offset_v is None else self.bias_offset_v
        np.savez(
            file, coefficients=self.coefficients, globals_=self.globals_, pixels=self.pixels, bias_offset_v=offset,
            error=self.error, field_waves=self.field_waves,
            dead=np.array([[k, v] for k, v in self.dead.items()], dtype=float).reshape(-1, 2),
            residual=np.zeros(0) if self.residual is None else self.residual,
        )  # fmt: skip

    def as_mapping(self) -> dict[str, Any]:
        """Everything in JSON values, exact: what a run writes down of its plate."""
        offset = np.zeros(self.needles) if self.bias_offset_v is None else self.bias_offset_v
        return {
            "coefficients": np.asarray(self.coefficients).tolist(),
            "globals": np.asarray(self.globals_).tolist(),
            "pixels": int(self.pixels),
            "bias_offset_v": np.asarray(offset).tolist(),
            "error": float(self.error),
            "dead": {str(needle): float(volts) for needle, volts in self.dead.items()},
            "field_waves": float(self.field_waves),
            "residual": [] if self.residual is None else np.asarray(self.residual).tolist(),
        }

    @classmethod
    def from_mapping(cls, stored: Mapping[str, Any]) -> Decoder:
        """What `as_mapping` gave; `BadInput` where it is something else."""
        try:
            return cls(
                np.array(stored["coefficients"], dtype=float),
                np.array(stored["globals"], dtype=float),
                int(stored["pixels"]),
                np.array(stored["bias_offset_v"], dtype=float),
                float(stored["error"]),
                {int(needle): float(volts) for needle, volts in stored["dead"].items()},
                float(stored["field_waves"]),
                _learned_part(stored.get("residual", [])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"The record does not hold a calibrated phase plate ({error}); calibrate anew.") from error

    @classmethod
    def load(cls, file: Path) -> Decoder:
        """Read what `save` wrote; `BadInput` where it is something else."""
        try:
            with np.load(file, allow_pickle=False) as stored:
                dead = {int(k): float(v) for k, v in stored["dead"]}
                return cls(
                    stored["coefficients"], stored["globals_"], int(stored["pixels"]), stored["bias_offset_v"],
                    float(stored["error"]), dead, float(stored["field_waves"]),
                    _learned_part(stored.get("residual", [])),
                )  # fmt: skip
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"{file} does not hold a calibrated phase plate ({error}); calibrate anew.") from error


def _learned_part(weights: Any) -> np.ndarray | None:
    found = np.asarray(weights, dtype=float)
    if found.shape not in ((0,), (RESIDUAL_TERMS,)) or not np.isfinite(found).all():
        raise ValueError(f"its learned part has the shape {found.shape}")
    return found if found.size else None


def _amplitude(samples: int, falloff: float) -> np.ndarray:
    y, x, inside = pupil_grid(samples)
    amplitude = inside * np.clip(1.0 - falloff * (y**2 + x**2), 0.0, None)
    return np.asarray(amplitude / np.sqrt((amplitude**2).sum()), dtype=np.float32)


def pearson(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson correlation of each pair of patterns, shape (n,)."""
    a, b = (p.reshape(len(p), -1) - p.reshape(len(p), -1).mean(axis=1, keepdims=True) for p in (found, truth))
    return np.asarray((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1)))


def nrmse(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``|found - truth| / |truth|`` of each pair of patterns or pictures, shape (n,)."""
    a, b = found.reshape(len(found), -1), truth.reshape(len(truth), -1)
    return np.asarray(np.sqrt(((a - b) ** 2).sum(1) / (b**2).sum(1)))
