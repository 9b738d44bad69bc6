"""Mean free paths and cross-sections against published numbers and limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.physics import scattering as s


def test_a_nanoampere_is_six_billion_electrons():
    assert s.electrons_per_s(1000.0) == pytest.approx(6.2415e9, rel=1e-4)


def test_atomic_densities():
    assert s.atoms_per_nm3(8.96, {"Cu": 1.0}) == pytest.approx(84.9, rel=0.005)  # four atoms in (0.3615 nm)³
    assert s.atoms_per_nm3(4.23, {"Ti": 1 / 3, "O": 2 / 3}) == pytest.approx(
        6 / (0.4594**2 * 0.2959), rel=0.02
    )  # rutile


def test_mean_free_path_is_exspys():
    exspy = pytest.importorskip("exspy")
    for density, tension, alpha, beta in ((2.0, 200e3, 20.0, 40.0), (8.96, 300e3, 30.0, 10.0), (1.1, 80e3, 5.0, 60.0)):
        free = exspy.utils.eels.iMFP_Iakoubovskii(density, tension / 1e3)
        correction = exspy.utils.eels.iMFP_angular_correction(density, tension / 1e3, alpha, beta)
        assert s.inelastic_mean_free_path_nm(density, tension, alpha, beta) == pytest.approx(
            free * correction, rel=1e-9
        )


@given(st.floats(0.8, 20.0), st.floats(60e3, 300e3))
def test_denser_is_shorter_and_faster_is_longer(density, tension):
    path = s.inelastic_mean_free_path_nm(density, tension, 20.0, 40.0)
    assert 10 < path < 400
    assert s.inelastic_mean_free_path_nm(density * 1.2, tension, 20.0, 40.0) < path
    if tension < 280e3:
        assert s.inelastic_mean_free_path_nm(density, tension * 1.07, 20.0, 40.0) > path


def test_velocity():
    assert s.velocity_ratio(200e3) == pytest.approx(0.6953, abs=1e-4)
    assert s.velocity_ratio(100e3) == pytest.approx(0.5482, abs=1e-4)


def test_haadf_contrast_goes_with_z_to_the_1_7():
    light, heavy = (s.annular_cross_section_nm2(z, 200e3) for z in (6, 29))
    assert np.log(heavy / light) / np.log(29 / 6) == pytest.approx(1.7)
    # beyond a larger angle there is less
    assert s.annular_cross_section_nm2(29, 200e3, 100.0) < heavy
    assert heavy < s.elastic_cross_section_nm2(29, 200e3)
