"""A simulated microscope whose camera gives tiny pictures, and an estimator that reads them: an alignment in milliseconds."""

from __future__ import annotations

import numpy as np

from napari_smarttem.alignment.estimator import Measurement
from napari_smarttem.backends.registry import connect
from napari_smarttem.physics.aberrations import ESTIMATED
from napari_smarttem.physics.ronchigram import Geometry
from napari_smarttem.schema import Axis, Frame

SIGMA = np.array([1.0, 0.3, 0.3, 4.0, 4.0, 9.0, 9.0, 0.6])
START = np.array([120.0, 40.0, -25.0, 300.0, -150.0, 500.0, 250.0, 12.0])
"""Aberrations while every control is at zero."""

SIDE = 32


class TinyCamera:
    """Writes the column's aberrations into the first pixels of its pictures; the controls move them one to one."""

    cameras = ("Ronchigram",)

    def __init__(self, microscope):
        self.microscope = microscope
        self.units = "mrad"
        self.pictures = 0

    def aberrations(self):
        values = self.microscope.optics.get()
        return START + np.array([values[name] for name in ESTIMATED])

    def acquire_image(self, exposure_s, cancel, camera=None):
        self.pictures += 1
        started = self.microscope.now_s()
        self.microscope.column.clock.wait_until(started + exposure_s, cancel)
        data = np.random.default_rng(self.pictures).poisson(50, (SIDE, SIDE)).astype(float)
        data[0, :8] = self.aberrations()
        pixel = 60.0 / SIDE
        axes = tuple(
            Axis(name=name, units=self.units, scale=pixel, offset=pixel / 2 - 30.0) for name in ("theta_y", "theta_x")
        )
        return Frame(
            data=data,
            axes=axes,
            signal="Ronchigram",
            metadata={"exposure_started_s": started, "exposure_finished_s": self.microscope.now_s(), "simulated": True},
        )


class TinyEstimator:
    """Reads what `TinyCamera` wrote, with the error bars that it says."""

    def __init__(self):
        self.rng = np.random.default_rng(3)
        self.asked = []

    def measure(self, frame, *, high_tension_v, half_angle_mrad, expected_c1_nm, **_):
        self.asked.append({"high_tension_v": high_tension_v, "half_angle_mrad": half_angle_mrad})
        geometry = Geometry(high_tension_v, half_angle_mrad, 128)
        truth = np.array(frame[0, :8])
        if not 0.4 < truth[0] / expected_c1_nm < 2.0:
            return Measurement(np.full(8, np.nan), np.full((8, 8), np.nan), geometry, "C1 is far from the expected")
        return Measurement(truth + SIGMA * self.rng.normal(size=8), np.diag(SIGMA**2), geometry, "good")


def microscope(**settings):
    """The simulator with the tiny camera."""
    made = connect("simulator", speed=None, seed=1, **settings)
    made.camera = TinyCamera(made)
    return made
