"""A plate, its decoder as it would be after a perfect calibration, and a small pool; made once."""

import numpy as np
import pytest

from napari_smarttem.physics.caustics import Caustics, built_optics, built_plate
from napari_smarttem.physics.caustics_basis import coefficients
from napari_smarttem.single_pixel.pool import draw_pool
from napari_smarttem.single_pixel.predict import Decoder


@pytest.fixture(scope="session")
def plate():
    rng = np.random.default_rng(3)
    return Caustics(built_plate(rng), built_optics(rng), samples=64, oversampling=1)


@pytest.fixture(scope="session")
def decoder(plate):
    o = plate.optics
    values = np.array([0.0, np.log(o.source_px), o.stretch, o.shear, o.barrel, o.falloff])
    return Decoder(coefficients(plate.plate, o), values, error=0.01)


@pytest.fixture(scope="session")
def pool(decoder):
    return draw_pool(decoder, 500, 16, np.random.default_rng(0))


@pytest.fixture(scope="session")
def specimen():
    y, x = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16), indexing="ij")
    picture = np.full((16, 16), 0.9)
    picture[np.hypot(y, x - 0.2) < 0.5] = 0.3
    return picture
