"""Mean free paths and cross-sections of fast electrons in matter, and the numbers of electrons in a beam."""

from __future__ import annotations

import math

ELEMENTARY_CHARGE_C = 1.602176634e-19
AVOGADRO = 6.02214076e23
ATOMIC_NUMBERS = {"C": 6, "N": 7, "O": 8, "Ti": 22, "Fe": 26, "Ni": 28, "Cu": 29}
ATOMIC_MASSES = {"C": 12.011, "N": 14.007, "O": 15.999, "Ti": 47.867, "Fe": 55.845, "Ni": 58.693, "Cu": 63.546}
"""Standard atomic masses in g/mol (IUPAC)."""


def electrons_per_s(beam_current_pa: float) -> float:
    """Electrons per second in a beam of `beam_current_pa` pA."""
    return beam_current_pa * 1e-12 / ELEMENTARY_CHARGE_C


def atoms_per_nm3(density_g_cm3: float, composition: dict[str, float]) -> float:
    """Atoms of any kind per nm³, from the mass density and the atomic fractions in `composition` (summing to 1)."""
    mass = sum(ATOMIC_MASSES[element] * fraction for element, fraction in composition.items())
    return density_g_cm3 / mass * AVOGADRO * 1e-21


def inelastic_mean_free_path_nm(
    density_g_cm3: float, high_tension_v: float, convergence_mrad: float, collection_mrad: float
) -> float:
    """Inelastic mean free path in nm within the collection aperture.

    Iakoubovskii, Mitsuishi, Nakayama and Furuya, Microsc. Res. Tech. 71 (2008) 626, equation 9.
    """
    kilovolt = high_tension_v / 1e3
    relativity = (1 + kilovolt / 1022) / (1 + kilovolt / 511) ** 2
    theta_c2 = 20.0**2
    theta_e2 = (5.5 * density_g_cm3**0.3 / (relativity * kilovolt)) ** 2
    alpha2, beta2 = convergence_mrad**2, collection_mrad**2
    larger = alpha2 + beta2 + abs(alpha2 - beta2)
    logarithm = math.log((larger + 2 * theta_e2) / (larger + 2 * theta_c2) * theta_c2 / theta_e2)
    return float(200 * relativity * kilovolt / (11 * density_g_cm3**0.3 * logarithm))


def velocity_ratio(high_tension_v: float) -> float:
    """Speed of the electron over the speed of light."""
    gamma = 1 + high_tension_v / 510998.95
    return math.sqrt(1 - 1 / gamma**2)


def elastic_cross_section_nm2(atomic_number: int, high_tension_v: float) -> float:
    """Total elastic cross-section per atom in nm².

    Langmore and Smith, Ultramicroscopy 46 (1992) 349:
    1.4e-6 nm² Z^1.5 / beta² (1 - 0.26 Z / (137 beta)).
    """
    beta = velocity_ratio(high_tension_v)
    return float(1.4e-6 * atomic_number**1.5 / beta**2 * (1 - 0.26 * atomic_number / (137 * beta)))


def annular_cross_section_nm2(atomic_number: int, high_tension_v: float, inner_mrad: float = 70.0) -> float:
    """Cross-section per atom in nm² for scattering beyond `inner_mrad`: what a HAADF detector collects.

    Rutherford's at Z = 29, scaled by Z^1.7 instead of Z² for the screening by the electrons of the atom (Pennycook's exponent
    for such angles), so that contrast between light and heavy atoms is that of measured HAADF images.
    """
    beta = velocity_ratio(high_tension_v)
    gamma = 1 / math.sqrt(1 - beta**2)
    # Rutherford with relativistic momentum: pi (2 Z r_e / (gamma beta²))² / 4 · cot²(theta/2), r_e = 2.8179e-6 nm
    cot2 = 1 / math.tan(inner_mrad * 1e-3 / 2) ** 2
    copper = math.pi * (29 * 2.8179403e-6 / (gamma * beta**2)) ** 2 * cot2
    return float(copper * (atomic_number / 29) ** 1.7)
