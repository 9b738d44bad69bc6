"""Probe size against ray tracing and diffraction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.physics.probe import probe_covariance_nm2
from napari_smarttem.schema import electron_wavelength_nm

OPTICS = {"convergence_mrad": 20.0, "high_tension_v": 200e3}


def traced_covariance(aberrations: dict[str, float]) -> np.ndarray:
    """Rays through the aperture, from the gradient of the wave aberration taken numerically."""
    theta = np.linspace(-0.02, 0.02, 401)
    ty, tx = np.meshgrid(theta, theta, indexing="ij")
    w = tx + 1j * ty
    a1 = aberrations.get("A1.x", 0) + 1j * aberrations.get("A1.y", 0)
    b2 = aberrations.get("B2.x", 0) + 1j * aberrations.get("B2.y", 0)
    a2 = aberrations.get("A2.x", 0) + 1j * aberrations.get("A2.y", 0)
    wave = np.real(
        0.5 * aberrations.get("C1", 0) * abs(w) ** 2 + 0.5 * a1 * np.conj(w) ** 2 + b2 * w**2 * np.conj(w)
        + a2 * np.conj(w) ** 3 / 3 + 0.25 * aberrations.get("C3", 0) * 1e3 * abs(w) ** 4
    )  # fmt: skip
    dy, dx = np.gradient(wave, theta, theta)
    inside = abs(w) <= 0.0198
    points = np.stack([dy[inside], dx[inside]])
    return points @ points.T / points.shape[1] * (0.02 / 0.0198) ** 2


@pytest.mark.parametrize(
    "aberrations",
    [{"C1": 500.0}, {"A1.x": 300.0}, {"A1.y": 300.0}, {"C1": -400.0, "A1.x": 100.0, "A1.y": 250.0}],
)
def test_first_order_matches_ray_tracing(aberrations):
    focused = probe_covariance_nm2({}, **OPTICS)
    blurred = probe_covariance_nm2(aberrations, **OPTICS) - focused
    traced = traced_covariance(aberrations)
    assert np.allclose(blurred, traced, atol=0.03 * np.abs(traced).max())


@pytest.mark.parametrize("aberrations", [{"B2.x": 3000.0}, {"A2.y": 3000.0}, {"C3": 100.0}])
def test_higher_orders_match_ray_tracing_in_size(aberrations):
    blurred = probe_covariance_nm2(aberrations, **OPTICS) - probe_covariance_nm2({}, **OPTICS)
    assert np.trace(blurred) == pytest.approx(np.trace(traced_covariance(aberrations)), rel=0.05)


def test_without_source_and_aberrations_the_probe_is_diffraction_limited():
    sigma = np.sqrt(probe_covariance_nm2({}, **OPTICS, source_fwhm_nm=0.0)[0, 0])
    assert sigma * 2.3548 == pytest.approx(0.51 * electron_wavelength_nm(200e3) / 0.02, rel=1e-3)


@given(st.floats(-4000, 4000), st.floats(-1000, 1000), st.floats(-1000, 1000), st.floats(-1000, 1000))
def test_aberrations_only_widen(c1, ax, ay, c3):
    covariance = probe_covariance_nm2({"C1": c1, "A1.x": ax, "A1.y": ay, "C3": c3}, **OPTICS)
    focused = probe_covariance_nm2({}, **OPTICS)
    assert np.linalg.eigvalsh(covariance).min() >= focused[0, 0] * (1 - 1e-6)
    assert covariance[0, 1] == pytest.approx(covariance[1, 0])
