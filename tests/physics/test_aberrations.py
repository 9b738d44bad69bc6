"""The wave aberration: one convention, its derivatives, and the words of others for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.physics.aberrations import (
    ALL,
    ESTIMATED,
    curvature_basis,
    gradient_basis,
    phase,
    quarter_pi_angle_mrad,
    units_of,
    vector,
    wave_basis,
)
from napari_smarttem.schema import BadInput, electron_wavelength_nm
from napari_smarttem.schema.optics import from_krivanek, to_krivanek

ANGLE = st.floats(-0.03, 0.03)


def test_the_formula_of_the_docstring():
    y, x = np.array(0.011), np.array(-0.017)
    w = complex(x, y)
    c = np.conj(w)
    b2 = 300 - 400j
    a2 = 250 + 90j
    expected = (
        0.5 * -700 * abs(w) ** 2 + (0.5 * (30 + 20j) * c**2).real + (b2 * w**2 * c).real + (a2 * c**3).real / 3
        + 0.25 * 40e3 * abs(w) ** 4
    )  # fmt: skip
    values = {"C1": -700, "A1.x": 30, "A1.y": 20, "B2.x": 300, "B2.y": -400, "A2.x": 250, "A2.y": 90, "C3": 40}
    found = vector(values, ESTIMATED) @ wave_basis(ESTIMATED, y, x)
    assert found == pytest.approx(expected, rel=1e-12)
    assert phase(values, 11.0, -17.0, 300e3) == pytest.approx(2 * np.pi * expected / electron_wavelength_nm(300e3))


@given(y=ANGLE, x=ANGLE, name=st.sampled_from(ALL))
def test_derivatives_are_those_of_the_wave(y, x, name):
    h = 1e-5

    def wave(dy, dx):
        return float(wave_basis([name], np.array(y + dy * h), np.array(x + dx * h))[0])

    gradient = gradient_basis([name], np.array(y), np.array(x))[0]
    curvature = curvature_basis([name], np.array(y), np.array(x))[0]
    size = max(abs(float(v)) for v in (*curvature, 1.0))
    assert gradient[0] == pytest.approx((wave(1, 0) - wave(-1, 0)) / (2 * h), rel=1e-4, abs=1e-6 * size)
    assert gradient[1] == pytest.approx((wave(0, 1) - wave(0, -1)) / (2 * h), rel=1e-4, abs=1e-6 * size)
    yy = (wave(1, 0) - 2 * wave(0, 0) + wave(-1, 0)) / h**2
    xx = (wave(0, 1) - 2 * wave(0, 0) + wave(0, -1)) / h**2
    yx = (wave(1, 1) - wave(1, -1) - wave(-1, 1) + wave(-1, -1)) / (4 * h**2)
    np.testing.assert_allclose(curvature, [yy, yx, xx], rtol=2e-3, atol=2e-3 * size)


@given(phi=st.floats(0, 2 * np.pi), theta=st.floats(0.001, 0.03), name=st.sampled_from(ALL))
def test_krivanek_describes_the_same_wave(phi, theta, name):
    wave = float(wave_basis([name], np.array(theta * np.sin(phi)), np.array(theta * np.cos(phi)))[0])
    total = 0.0
    for krivanek, value in to_krivanek({name: 1.0}).items():
        n, m = int(krivanek[1]), int(krivanek[2])
        angular = np.sin(m * phi) if krivanek.endswith("b") else np.cos(m * phi)
        total += theta ** (n + 1) / (n + 1) * value * angular
    assert total == pytest.approx(wave, rel=1e-9, abs=1e-18)


def test_krivanek_there_and_back():
    values = {name: 1.0 + k for k, name in enumerate(ALL)}
    assert from_krivanek(to_krivanek(values)) == pytest.approx(values)


def test_quarter_pi_angle_of_defocus_alone():
    # pi C1 theta² / lambda = pi / 4
    wavelength = electron_wavelength_nm(300e3)
    assert quarter_pi_angle_mrad({"C1": 5.0}, 300e3) == pytest.approx(1e3 * (wavelength / 20) ** 0.5, abs=0.1)
    assert quarter_pi_angle_mrad({}, 300e3) == pytest.approx(60.0)
    many = quarter_pi_angle_mrad(np.array([[0.7, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 2.4]]), 300e3)
    assert np.all(many >= 25.0)


def test_unknown_names_are_refused():
    with pytest.raises(BadInput, match="no aberration"):
        units_of("C1.x")
    with pytest.raises(BadInput, match="C5"):
        vector({"C5": 1.0}, ESTIMATED)
