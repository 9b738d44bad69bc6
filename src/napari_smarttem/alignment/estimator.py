"""From one Ronchigram to aberrations with error bars, or to the reason why not.

The network looks at the local spectra and gives a start; the likelihood of all local spectra is then climbed with small windows,
which forgive a poor start, and with wide ones that reach over the frame's edge, which give the accuracy. What comes out is judged
before it is called a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..physics.aberrations import ESTIMATED, quarter_pi_angle_mrad, units_of
from ..physics.ronchigram import Geometry
from ..schema import BadInput
from .spectra import Layout, for_network, periodograms, physical, window_pixels
from .whittle import Likelihood, Refined, refine
from .windows import SINE_SIGMA

if TYPE_CHECKING:
    from ..nn.registry import Model

SMALL_RINGS = 40.0
"""Ring number of the windows of the first refinement."""
LARGEST_SMEAR = (2.5, 5.5)
"""Change of the rings' phase over the windows of the second refinement, in rad, at their outermost bin: always allowed, and allowed
where the rings are damped otherwise."""
LARGEST_LAG = 0.4
"""Distance, in windows, of the sidebands of what the camera just resolves, from which on the rings count as damped."""
OVERHANG = 0.4
"""How far the windows of the second refinement reach over the frame's edge, in windows."""
LARGEST_FRAME = 640
MODEL = "ronchigram"


@dataclass(frozen=True)
class Measurement:
    """The aberrations that one frame shows.

    Attributes
    ----------
    coefficients : ndarray, shape (8,)
        In the order of `names`, C1 and first and second order in nm, C3 in um.
    covariance : ndarray, shape (8, 8)
    geometry : Geometry
        Of the frame as it was analysed.
    verdict : str
        ``"good"``, or why the numbers must not be used.
    quality : Mapping
        What the verdict rests on.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    geometry: Geometry
    verdict: str
    quality: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ESTIMATED

    @property
    def good(self) -> bool:
        """True where the numbers may be used."""
        return self.verdict == "good"

    @property
    def sigma(self) -> np.ndarray:
        """Standard errors, shape (8,)."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def quarter_pi_mrad(self) -> float:
        """Angle within which the phase stays under pi/4 in size, all coefficients (the measured C1 too) counted."""
        return float(quarter_pi_angle_mrad(self.coefficients, self.geometry.high_tension_v))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = {
            name: {"value": float(value), "sigma": float(sigma), "units": units_of(name)}
            for name, value, sigma in zip(self.names, self.coefficients, self.sigma, strict=True)
        }
        return {
            "verdict": self.verdict,
            "good": self.good,
            "aberrations": rows if self.good else {},
            "quarter_pi_mrad": self.quarter_pi_mrad if self.good else None,
            "high_tension_v": self.geometry.high_tension_v,
            "half_angle_mrad": self.geometry.half_angle_mrad,
            "pixels": self.geometry.pixels,
            "quality": dict(self.quality),
            "made_with": dict(self.provenance),
        }


class Estimator:
    """Measures aberrations on Ronchigrams.

    Parameters
    ----------
    model : str or None
        Name of the network's weights; None does without (from a start that must then be given, or guessed by a search over C1).
    """

    def __init__(self, model: str | None = MODEL) -> None:
        from ..nn import registry

        registry.require_torch()
        self.model: Model | None = registry.load(model) if model is not None else None

    def measure(
        self,
        frame: np.ndarray,
        *,
        high_tension_v: float,
        half_angle_mrad: float,
        expected_c1_nm: float = -1500.0,
        start: np.ndarray | None = None,
        refined: bool = True,
    ) -> Measurement:
        """Read one frame.

        Parameters
        ----------
        frame : ndarray, shape (y, x)
            Counts. Where it is not square, the middle square is used; where it is larger than 640 pixels, it is binned.
        high_tension_v, half_angle_mrad : float
            Half-angle from the middle of the frame to the middle of its shorter edge.
        expected_c1_nm : float
            About where C1 is; within a factor of about 1.7.
        start : ndarray, shape (8,), or None
            A second start beside the network's, such as what the last measurement and the last correction let expect.
        refined : bool
            False stops after the network.

        Raises
        ------
        BadInput
            An array that is no image, or a calibration that makes no sense.
        """
        import torch

        image, geometry = prepared(frame, high_tension_v, half_angle_mrad)
        unusable = first_look(image)
        if unusable:
            return _nothing(geometry, unusable)
        tensor = torch.as_tensor(image, dtype=torch.float32)
        starts = [] if start is None else [np.asarray(start, dtype=float)]
        provenance: dict[str, Any] = {"method": "search and likelihood"}
        if self.model is not None:
            mean, sigma = self.ask_network(tensor, geometry, expected_c1_nm)
            starts.append(mean)
            provenance = {"method": "network and likelihood", **self.model.provenance}
            if not refined:
                return Measurement(mean, np.diag(sigma**2), geometry, "good", {}, {**provenance, "method": "network"})
        starts = starts or [np.array([expected_c1_nm, 0, 0, 0, 0, 0, 0, 0.0])]
        found = climb(tensor, geometry, starts, expected_c1_nm)
        return Measurement(
            found.coefficients,
            found.covariance,
            geometry,
            judge(found, geometry, expected_c1_nm),
            {name: float(getattr(found, name)) for name in ("visibility", "evidence", "misfit", "outliers")},
            provenance,
        )

    def ask_network(self, tensor: Any, geometry: Geometry, expected_c1_nm: float) -> tuple[np.ndarray, np.ndarray]:
        """The network's coefficients and standard errors, both of shape (8,)."""
        import torch

        assert self.model is not None
        layout = Layout(geometry, window_pixels(geometry, expected_c1_nm))
        with torch.inference_mode():
            mean, log_variance, _ = self.model.network(*for_network(periodograms(tensor[None], layout), layout))
        values = mean[0].double().numpy()
        spread = np.exp(0.5 * log_variance[0].double().numpy())
        coefficients = physical(values, layout)
        # the units of the others hang on C1: their errors are taken at the C1 that was found
        step = np.abs(np.stack([physical(values + spread * row, layout) for row in np.eye(8)]) - coefficients)
        return coefficients, np.diag(step)


def prepared(frame: np.ndarray, high_tension_v: float, half_angle_mrad: float) -> tuple[np.ndarray, Geometry]:
    """A square frame of at most 640 pixels, and what it shows."""
    image = np.asarray(frame)
    if image.ndim != 2 or min(image.shape) < 128 or image.dtype.kind not in "biuf":
        raise BadInput(
            f"a Ronchigram is a (y, x) image of at least 128 x 128 real numbers, got shape {image.shape} of {image.dtype}."
        )
    if not (20e3 <= high_tension_v <= 1.5e6):
        raise BadInput(f"the high tension must lie between 20 and 1500 kV, got {high_tension_v / 1e3:g} kV.")
    if not (2.0 <= half_angle_mrad <= 100.0):
        raise BadInput(f"the half-angle of the frame must lie between 2 and 100 mrad, got {half_angle_mrad:g} mrad.")
    side = min(image.shape)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    image = image[top : top + side, left : left + side].astype(np.float32)
    bins = math.ceil(side / LARGEST_FRAME)
    kept = side // bins // 2 * 2
    margin = (side - kept * bins) // 2
    image = image[margin : margin + kept * bins, margin : margin + kept * bins]
    image = image.reshape(kept, bins, kept, bins).sum(axis=(1, 3))
    return image, Geometry(float(high_tension_v), float(half_angle_mrad) * kept * bins / side, kept)


def first_look(image: np.ndarray) -> str:
    """Why an image cannot be a Ronchigram, seen without any physics; empty where nothing is wrong."""
    bad = int(np.count_nonzero(~np.isfinite(image)))
    if bad:
        return f"{bad} pixels are not finite numbers"
    mean, top = float(image.mean()), float(image.max())
    if mean <= 0 or top <= 0:
        return "the frame is dark: is the beam blanked?"
    if float(np.mean(image >= top)) > 2e-3 and top > image.min():
        return "the camera is saturated: shorten the exposure"
    if image.std() == 0:
        return "every pixel has the same value: this is no image"
    if mean < 4 and top < 60:
        return "there are fewer than four electrons per pixel: is the beam blanked? Expose longer"
    return ""


def _nothing(geometry: Geometry, why: str) -> Measurement:
    """No numbers, and why."""
    return Measurement(np.full(8, np.nan), np.full((8, 8), np.nan), geometry, why)


def climb(tensor: Any, geometry: Geometry, starts: list[np.ndarray], expected_c1_nm: float) -> Refined:
    """The best refinement from several starts: small windows first, then wide ones."""
    import torch

    with torch.inference_mode():
        small = Likelihood(tensor, geometry, _window(geometry, expected_c1_nm, SMALL_RINGS))
        coarse = [refine(small, usable_start(s, geometry, expected_c1_nm)) for s in starts]
        best = max(coarse, key=lambda found: found.evidence)
        window = wide_window(geometry, best.coefficients)
        wide = Likelihood(tensor, geometry, window, OVERHANG)
        return refine(wide, best.coefficients, scan=False, stages=(0.35,), steps=9)


def usable_start(start: np.ndarray, geometry: Geometry, expected_c1_nm: float) -> np.ndarray:
    """A start whose curvature has one sign all over the frame."""
    values = np.array(start, dtype=float)
    values[0] = np.clip(values[0], 2.0 * expected_c1_nm, 0.45 * expected_c1_nm)
    edge = 1e-3 * geometry.half_angle_mrad
    layout = Layout(geometry, 16, 9)
    others = np.tensordot(values[1:], layout.curvature_basis()[1:], axes=1)
    worst = float(np.abs(others).sum(axis=-1).max())
    if worst > 0.6 * abs(values[0]) and edge > 0:
        values[1:] *= 0.6 * abs(values[0]) / worst
    return values


def wide_window(geometry: Geometry, coefficients: np.ndarray) -> int:
    """As wide as the rings need and the change of the curvature over a window allows, in pixels, up to 3/4 of the frame."""
    layout = Layout(geometry, 16, 9)
    slopes = np.einsum("k,kpij->pij", coefficients, layout.curvature_slopes())
    steepest = max(float(np.sqrt(np.mean(slopes[:, (0, 2)] ** 2) * 2)), 1.0)
    allowed = (np.array(LARGEST_SMEAR) * geometry.wavelength_nm / (SINE_SIGMA * steepest)) ** (1 / 3)
    needed = geometry.wavelength_nm / (abs(coefficients[0]) * geometry.pixel_rad * LARGEST_LAG)
    width = np.clip(needed, *allowed)
    return int(np.clip(8 * round(width / geometry.pixel_rad / 8), 48, int(0.75 * geometry.pixels) // 16 * 16))


def _window(geometry: Geometry, c1_nm: float, rings: float) -> int:
    ideal = math.sqrt(rings * geometry.wavelength_nm / max(abs(c1_nm), 1.0)) / geometry.pixel_rad
    largest = int(0.375 * geometry.pixels) // 16 * 16
    return int(np.clip(16 * round(ideal / 16), 48, largest))


SMALLEST_EVIDENCE = 2e-3
SMALLEST_VISIBILITY = 0.35
LARGEST_MISFIT = 1.5
LARGEST_OUTLIERS = 1.5e-3


def judge(found: Refined, geometry: Geometry, expected_c1_nm: float) -> str:
    """``"good"``, or in words why a fit is no measurement."""
    c1 = float(found.coefficients[0])
    if not np.all(np.isfinite(found.coefficients)) or not np.all(np.diag(found.covariance) > 0):
        return "the rings could not be followed: this does not look like the Ronchigram of an amorphous film"
    if found.outliers > LARGEST_OUTLIERS or found.misfit > LARGEST_MISFIT:
        return "the local spectra are not those of an amorphous film: crystalline area, or an obstructed beam"
    if found.evidence < SMALLEST_EVIDENCE or found.visibility < SMALLEST_VISIBILITY:
        return "there are no Thon rings: vacuum, too few electrons, or no thin amorphous area"
    if not 0.5 <= c1 / expected_c1_nm <= 1.9:
        return f"C1 = {c1:.0f} nm is far from the expected {expected_c1_nm:.0f} nm: is the camera length as stated?"
    if not found.converged:
        return "the fit did not come to rest: aberrations out of range, or a wrong camera length"
    layout = Layout(geometry, 16, 9)
    yy, yx, xx = np.tensordot(found.coefficients[1:], layout.curvature_basis()[1:], axes=1).T
    strongest = np.abs((yy + xx) / 2) + np.hypot((yy - xx) / 2, yx)  # the larger eigenvalue of what is not C1
    if float(strongest.max()) > 0.9 * abs(c1):
        return "the aberrations are out of range for this defocus: defocus more"
    return "good"
