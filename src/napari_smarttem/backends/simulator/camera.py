"""The camera under the column: Ronchigrams of a thin amorphous film, made by the same physics as the training data.

The film is another piece in every exposure, as on a slowly moving stage: what is under the beam has nothing to do with the specimen
that the scanner sees.
"""

from __future__ import annotations

import numpy as np

from ...schema import Axis, BadInput, Cancelled, Frame, LimitExceeded
from ..base import CancelToken
from .column import Column

CAMERA = "Ronchigram"
EXPOSURE_RANGE_S = (1e-3, 60.0)
READOUT_S = 0.02
DARK_ELECTRONS = 0.05
MODES = ("film", "vacuum", "crystal")


class RonchigramCamera:
    """Records the angle plane with the aperture taken out.

    Parameters
    ----------
    column : Column
    pixels : int
    half_angle_mrad : float
        From the middle of the frame to the middle of its edge.

    Attributes
    ----------
    under_beam : str
        One of `MODES`: what the stationary beam meets.
    """

    def __init__(self, column: Column, *, pixels: int = 512, half_angle_mrad: float = 30.0) -> None:
        self._column = column
        self.pixels = pixels
        self.half_angle_mrad = half_angle_mrad
        self.under_beam = MODES[0]

    @property
    def cameras(self) -> tuple[str, ...]:
        """The one camera."""
        return (CAMERA,)

    def acquire_image(self, exposure_s: float, cancel: CancelToken, camera: str | None = None) -> Frame:
        """Expose and read once; electrons per pixel, axes in mrad. See `base.Camera`."""
        if camera is not None and camera != CAMERA:
            raise BadInput(f"the simulated microscope has no camera {camera!r}; it has {CAMERA}.")
        low, high = EXPOSURE_RANGE_S
        if not low <= exposure_s <= high:
            raise LimitExceeded(f"the exposure must lie between {low:g} and {high:g} s, got {exposure_s:g} s.")
        column, clock = self._column, self._column.clock
        if cancel.is_set():
            raise Cancelled("the Ronchigram was stopped before it began.")
        started_s = clock.now_s()
        finished_s = started_s + exposure_s
        with column.lock:
            blanked = column.blanked
            aberrations = column.true_aberrations((started_s + finished_s) / 2)
            noise = column.next_noise()
        if not clock.wait_until(finished_s, cancel):
            raise Cancelled(f"the Ronchigram was stopped before its {exposure_s:g} s were over.")
        electrons = 0.0 if blanked else column.electrons_per_s * exposure_s
        data = self._counts(aberrations, electrons / self.pixels**2, noise)
        clock.wait_until(finished_s + READOUT_S)
        pixel = 2 * self.half_angle_mrad / self.pixels
        axes = tuple(
            Axis(name=name, units="mrad", scale=pixel, offset=pixel / 2 - self.half_angle_mrad)
            for name in ("theta_y", "theta_x")
        )
        return Frame(
            data=data,
            axes=axes,
            signal=CAMERA,
            metadata={
                **column.settings.provenance(),
                "camera": CAMERA,
                "exposure_started_s": started_s,
                "exposure_finished_s": finished_s,
                "exposure_s": exposure_s,
                "half_angle_mrad": self.half_angle_mrad,
                "optics": dict(column.aberrations),
                "truth": {"aberrations": dict(aberrations), "electrons": electrons},
            },
        )

    def _counts(self, aberrations: dict[str, float], per_pixel: float, noise: np.random.Generator) -> np.ndarray:
        import torch

        from ...physics.ronchigram import Film, Geometry, Recording, simulate

        shape = (self.pixels, self.pixels)
        dark = noise.poisson(DARK_ELECTRONS, shape).astype(np.float32)
        if per_pixel == 0:
            return dark
        geometry = Geometry(self._column.settings.high_tension_v, self.half_angle_mrad, self.pixels)
        strength = {"film": 0.2, "vacuum": 1e-6, "crystal": 0.02}[self.under_beam]
        frames = simulate(
            geometry,
            np.array([list(away_from_infinity(aberrations).values())]),
            tuple(aberrations),
            film=Film(phase_rms=strength * noise.uniform(0.7, 1.4), k0_per_nm=noise.uniform(4.0, 6.0)),
            recording=Recording(
                dose_e_per_px=per_pixel, gain_ripple=0.01, specks=120.0 if self.under_beam == "crystal" else 0.0
            ),
            generator=torch.Generator().manual_seed(int(noise.integers(2**62))),
            largest_oversampling=2,
        )
        return np.asarray(frames[0].numpy() + dark)


def away_from_infinity(aberrations: dict[str, float]) -> dict[str, float]:
    """The same, with a defocus that is not within 5 nm of a line focus: there the magnification is infinite."""
    astigmatism = float(np.hypot(aberrations.get("A1.x", 0.0), aberrations.get("A1.y", 0.0)))
    c1 = aberrations.get("C1", 0.0)
    for focus in (astigmatism, -astigmatism):
        if abs(c1 - focus) < 5.0:
            c1 = focus + (5.0 if c1 >= focus else -5.0)
    return {**aberrations, "C1": c1}
