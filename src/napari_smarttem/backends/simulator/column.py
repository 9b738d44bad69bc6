"""The column: where the beam is, how large the probe, what it has done to the specimen.

Every part of the microscope asks the column; the column alone changes the dose. A stationary probe that is not blanked deposits
dose for as long as it stands, exposure or not, as on a real instrument.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ...physics.probe import probe_covariance_nm2
from ...physics.scattering import electrons_per_s
from ...schema import Field2D
from .clock import Clock
from .dose import DoseMap
from .drift import Drift
from .lenses import Lenses
from .specimens import CONTAMINATION, Phase, Specimen

if TYPE_CHECKING:
    from .microscope import Settings

CONTAMINATION_NM = 6.0
CONTAMINATION_DOSE = 2e5
"""Carbon grows towards 6 nm with a characteristic dose of 2e5 e/Å²: visible where a probe has stood, not after a scan."""


class Column:
    """Beam, probe and specimen, shared by all parts of the microscope.

    Parameters
    ----------
    settings : Settings
    specimen : Specimen
    field : Field2D
        What the scan coils reach.
    clock : Clock
    """

    def __init__(self, settings: Settings, specimen: Specimen, field: Field2D, clock: Clock) -> None:
        self.settings = settings
        self.specimen = specimen
        self.field = field
        self.clock = clock
        self.drift = Drift(settings.drift_nm_per_s, settings.drift_walk_nm, settings.seed, reach_nm=field.height_nm)
        self.dose = DoseMap(specimen.extent)
        self.phases: tuple[Phase, ...] = specimen.phases + ((CONTAMINATION,) if settings.contamination else ())
        self.elements = tuple(dict.fromkeys(element for phase in self.phases for element in phase.composition))
        self.electrons_per_s = electrons_per_s(settings.beam_current_pa)
        self.aberrations: dict[str, float] = {}  # what the controls say
        self.lenses = Lenses(settings.seed, settings.misalignment, settings.optics_imperfection)
        self.stage_nm = np.zeros(2)
        self.stage_z_nm = 0.0
        self.lock = threading.RLock()
        self._blanked = False
        self._blanked_at_s: float | None = None
        self._probe: tuple[float, float] | None = None
        self._since_s = 0.0
        self._delivered = 0.0
        self._exposures = 0

    def next_noise(self) -> np.random.Generator:
        """The generator of the next exposure's noise: depends on the seed and the number of exposures before it, nothing else."""
        with self.lock:
            self._exposures += 1
            return np.random.default_rng([self.settings.seed, 11, self._exposures])

    @property
    def probe(self) -> tuple[float, float] | None:
        """(y, x) of the stationary probe in nm, None where it is parked."""
        return self._probe

    def place_probe(self, position: tuple[float, float] | None) -> None:
        """Put the probe somewhere or park it (None), now."""
        with self.lock:
            self.settle_dose(self.clock.now_s())
            self._probe = position

    @property
    def blanked(self) -> bool:
        """True while no electrons reach the specimen."""
        return self._blanked

    def set_blanked(self, blanked: bool) -> None:
        """Blank or unblank, now."""
        with self.lock:
            now = self.clock.now_s()
            self.settle_dose(now)
            if blanked and not self._blanked:
                self._blanked_at_s = now
            elif not blanked:
                self._blanked_at_s = None
            self._blanked = blanked

    @property
    def blanked_at_s(self) -> float | None:
        """When the beam was blanked, None while it is on."""
        return self._blanked_at_s

    def settle_dose(self, until_s: float) -> float:
        """Deposit what a stationary probe has delivered up to `until_s`; all electrons it ever delivered."""
        with self.lock:
            seconds = max(0.0, until_s - self._since_s)
            if self._probe is not None and not self._blanked and seconds > 0:
                electrons = self.electrons_per_s * seconds
                y, x = self.on_specimen(self._probe[0], self._probe[1], self._since_s + seconds / 2)
                self.dose.add_probe(float(y), float(x), self.covariance_nm2(), electrons)
                self._delivered += electrons
            self._since_s = max(self._since_s, until_s)
            return self._delivered

    def expose_field(self, area: Field2D, electrons: float, mid_s: float) -> None:
        """Deposit a scan over `area`."""
        with self.lock:
            y, x = self.on_specimen(area.y_nm, area.x_nm, mid_s)
            moved = Field2D(y_nm=float(y), x_nm=float(x), height_nm=area.height_nm, width_nm=area.width_nm)
            self.dose.add_field(moved, electrons)

    def on_specimen(
        self, y_nm: np.ndarray | float, x_nm: np.ndarray | float, time_s: np.ndarray | float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which place of the specimen lies at a place of the field at a time: drift and stage taken off."""
        shift = self.drift.at(time_s) + self.stage_nm
        return np.asarray(y_nm - shift[..., 0]), np.asarray(x_nm - shift[..., 1])

    def covariance_nm2(self) -> np.ndarray:
        """Covariance of the probe in nm², (y, x); raising the stage defocuses."""
        return probe_covariance_nm2(
            self.true_aberrations(self.clock.now_s()),
            convergence_mrad=self.settings.convergence_mrad,
            high_tension_v=self.settings.high_tension_v,
        )

    def true_aberrations(self, time_s: float) -> dict[str, float]:
        """The aberrations of the beam at the specimen, by name; raising the stage defocuses."""
        aberrations = self.lenses.aberrations(time_s)
        aberrations["C1"] -= self.stage_z_nm
        return aberrations

    def with_contamination(self, phase_nm: np.ndarray, dose_e_per_a2: np.ndarray) -> np.ndarray:
        """Thickness of each of `phases`, given that of the specimen's own, shape ``(phases, ...)``."""
        if len(self.phases) == len(self.specimen.phases):
            return phase_nm
        grown = -CONTAMINATION_NM * np.expm1(-dose_e_per_a2 / CONTAMINATION_DOSE)
        return np.concatenate((phase_nm, np.asarray(grown, dtype=phase_nm.dtype)[None]))

    def projected(
        self, layers_nm: np.ndarray, per_atom: Mapping[str, float], before: np.ndarray, after: np.ndarray
    ) -> np.ndarray:
        """Sum over all atoms in the beam's way of a quantity per atom and area (nm²), while the dose rises.

        Parameters
        ----------
        layers_nm : ndarray, shape (phases, ...)
        per_atom : mapping
            Element -> quantity; missing elements count nothing.
        before, after : ndarray, shape (...)
            Dose in e/Å² at the start and end of the exposure.
        """
        total = np.zeros(layers_nm.shape[1:], dtype=layers_nm.dtype)
        for phase, thickness in zip(self.phases, layers_nm, strict=True):
            atoms = phase.atoms_per_nm3
            steady = sum(
                atoms * f * per_atom.get(e, 0.0) for e, f in phase.composition.items() if e not in phase.fragile
            )
            weight: np.ndarray | float = steady
            for element in phase.fragile:
                share = phase.composition[element] * per_atom.get(element, 0.0)
                if share:
                    weight = weight + atoms * share * phase.surviving(element, before, after)
            total = total + thickness * np.asarray(weight, dtype=layers_nm.dtype)
        return total
