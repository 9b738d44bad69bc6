"""The energy-loss spectrometer: what the electrons of a stationary probe lost on their way."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from ...physics.cross_sections import CrossSection, hydrogenic, with_white_lines
from ...physics.eels import LossProcess, SpectrumModel, record, valence_cumulative
from ...physics.scattering import inelastic_mean_free_path_nm
from ...schema import BadInput, Cancelled, Frame, InstrumentFault, LimitExceeded, spectrum_frame
from ..base import CancelToken
from .column import Column

CHANNELS = 2048
DISPERSIONS_EV = (0.05, 0.1, 0.25, 0.5, 1.0)
OFFSET_RANGE_EV = (-100.0, 2000.0)
READOUT_S = 2e-3
SETTLE_S = 0.05
EXPOSURE_RANGE_S = (1e-5, 60.0)
DARK_ELECTRONS_PER_S = 5.0
POINT_SPREAD_CHANNELS = 1.2
MODELS_KEPT = 4
EDGE_OF = {"C": "C_K", "N": "N_K", "O": "O_K", "Ti": "Ti_L3", "Fe": "Fe_L3", "Ni": "Ni_L3", "Cu": "Cu_L3"}
WHITE_LINES = {"Ti": (5.7, 0.5), "Fe": (13.0, 0.45), "Ni": (17.3, 0.25)}
"""Spin-orbit splitting in eV and strength of the L2,3 white lines in the oxides; metallic copper has a full d band and none."""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_PROBE_NODES = np.stack(np.meshgrid(_NODES, _NODES, indexing="ij")).reshape(2, -1)
_PROBE_WEIGHTS = np.outer(_WEIGHTS, _WEIGHTS).ravel() / _WEIGHTS.sum() ** 2


class SimulatedSpectrometer:
    """A 2048-channel EELS spectrometer."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._offset_ev = 200.0
        self._dispersion_ev = 0.5
        self._models: OrderedDict[tuple[float, float], SpectrumModel] = OrderedDict()
        settings = column.settings
        self._per_nm = np.array(
            [
                1 / inelastic_mean_free_path_nm(
                    phase.density_g_cm3, settings.high_tension_v, settings.convergence_mrad, settings.collection_mrad
                )
                for phase in column.phases
            ]
        )  # fmt: skip
        self._edges: dict[str, CrossSection] = {}

    @property
    def signal(self) -> str:
        """``"EELS"``."""
        return "EELS"

    @property
    def channels(self) -> int:
        """Number of channels."""
        return CHANNELS

    @property
    def energy_offset_ev(self) -> float:
        """Energy loss at the centre of channel 0."""
        return self._offset_ev

    @property
    def dispersion_ev(self) -> float:
        """Energy per channel, in eV."""
        return self._dispersion_ev

    @property
    def dispersions_ev(self) -> tuple[float, ...]:
        """Dispersions that can be set."""
        return DISPERSIONS_EV

    @property
    def energy_offset_range_ev(self) -> tuple[float, float]:
        """Smallest and largest offset."""
        return OFFSET_RANGE_EV

    def set_energy_offset_ev(self, value: float) -> None:
        """Set the energy loss at channel 0."""
        low, high = OFFSET_RANGE_EV
        if not low <= value <= high:
            raise LimitExceeded(f"the energy offset must lie between {low:g} and {high:g} eV, got {value:g} eV.")
        self._offset_ev = float(value)
        self._column.clock.sleep(SETTLE_S)

    def set_dispersion_ev(self, value: float) -> None:
        """Set one of `dispersions_ev`."""
        if value not in DISPERSIONS_EV:
            raise BadInput(
                f"there is no dispersion of {value:g} eV per channel; choose one of {', '.join(map(str, DISPERSIONS_EV))}."
            )
        self._dispersion_ev = float(value)
        self._column.clock.sleep(SETTLE_S)

    def acquire_spectrum(self, exposure_s: float, cancel: CancelToken) -> Frame:
        """Expose and read; shape ``(2048,)``, counts, dark-subtracted. See `base.Spectrometer`."""
        column, clock = self._column, self._column.clock
        low, high = EXPOSURE_RANGE_S
        if not low <= exposure_s <= high:
            raise LimitExceeded(f"the exposure must lie between {low:g} and {high:g} s, got {exposure_s:g} s.")
        position = column.probe
        if position is None:
            raise InstrumentFault(
                "the probe is parked, so there is nothing to record; move it to a place before taking a spectrum.",
                transient=False,
            )
        if cancel.is_set():
            raise Cancelled("the spectrum was stopped before it began.")
        started_s = clock.now_s()
        finished_s = started_s + exposure_s
        y, x = self._probed(position, (started_s + finished_s) / 2)
        with column.lock:
            already = column.settle_dose(started_s)
            before = column.dose.at(y, x)
        if not clock.wait_until(finished_s, cancel):
            column.settle_dose(clock.now_s())
            raise Cancelled(f"the spectrum was stopped before its {exposure_s:g} s were over.")
        with column.lock:
            electrons = column.settle_dose(finished_s) - already
            after = column.dose.at(y, x)
        events, atoms = self._events(y, x, before, after)
        model = self._model()
        noise = column.next_noise()
        counts = record(
            electrons * model.probabilities(events),
            noise,
            counts_per_electron=column.settings.counts_per_electron,
            read_noise_counts=column.settings.read_noise_counts,
            dark_electrons=DARK_ELECTRONS_PER_S * exposure_s,
        )
        clock.wait_until(finished_s + READOUT_S)
        drift = column.drift.at((started_s + finished_s) / 2)
        return spectrum_frame(
            counts,
            dispersion_ev=self._dispersion_ev,
            offset_ev=self._offset_ev,
            signal=self.signal,
            metadata={
                **column.settings.provenance(),
                "exposure_started_s": started_s,
                "exposure_finished_s": finished_s,
                "exposure_s": exposure_s,
                "y_nm": position[0],
                "x_nm": position[1],
                "convergence_mrad": column.settings.convergence_mrad,
                "collection_mrad": column.settings.collection_mrad,
                "energy_resolution_ev": column.settings.energy_resolution_ev,
                "counts_per_electron": column.settings.counts_per_electron,
                "read_noise_counts": column.settings.read_noise_counts,
                "truth": {
                    "drift_nm": [float(drift[0]), float(drift[1])],
                    "t_over_lambda": float(events[: len(column.phases)].sum()),
                    "atoms_per_nm2": atoms,
                    "electrons": electrons,
                },
            },
        )

    def _probed(self, position: tuple[float, float], time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Places of the specimen that stand for the probe: Gauss-Hermite nodes of its Gaussian."""
        y, x = self._column.on_specimen(position[0], position[1], time_s)
        spread = np.linalg.cholesky(self._column.covariance_nm2()) @ _PROBE_NODES
        return y + spread[0], x + spread[1]

    def _events(
        self, y: np.ndarray, x: np.ndarray, before: np.ndarray, after: np.ndarray
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Mean number of losses per electron of each process, and atoms per nm² in the probe."""
        column = self._column
        layers = column.with_contamination(column.specimen.phase_nm(y, x), (before + after) / 2)
        valence = np.zeros(len(column.phases))
        atoms = dict.fromkeys(column.elements, 0.0)
        for index, (phase, thickness) in enumerate(zip(column.phases, layers, strict=True)):
            for element, fraction in phase.composition.items():
                left = float(_PROBE_WEIGHTS @ (thickness * phase.surviving(element, before, after)))
                # valence losses shrink with the matter that is gone
                valence[index] += fraction * left * self._per_nm[index]
                atoms[element] += fraction * left * phase.atoms_per_nm3
        ionisations = [atoms[element] * self._cross_sections()[element].total_nm2 for element in column.elements]
        return np.concatenate((valence, ionisations)), atoms

    def _cross_sections(self) -> dict[str, CrossSection]:
        if not self._edges:
            settings = self._column.settings
            edges = {
                element: hydrogenic(
                    EDGE_OF[element],
                    high_tension_v=settings.high_tension_v,
                    convergence_mrad=settings.convergence_mrad,
                    collection_mrad=settings.collection_mrad,
                )
                for element in self._column.elements
            }
            for element, (splitting, share) in WHITE_LINES.items():
                if element in edges:
                    edges[element] = with_white_lines(edges[element], splitting_ev=splitting, share=share)
            self._edges = edges
        return self._edges

    def _model(self) -> SpectrumModel:
        """The spectrum model of the present energy axis; a few are kept, as plans switch between low and core loss."""
        key = (self._dispersion_ev, self._offset_ev)
        if key in self._models:
            self._models.move_to_end(key)
            return self._models[key]
        processes = [
            LossProcess(
                phase.name,
                valence_cumulative(phase.plasmon_ev, phase.plasmon_width_ev, exponent=phase.tail_exponent),
            )
            for phase in self._column.phases
        ]
        processes += [LossProcess(section.edge, section.cumulative) for section in self._cross_sections().values()]
        blur = POINT_SPREAD_CHANNELS * self._dispersion_ev
        self._models[key] = SpectrumModel(
            processes,
            dispersion_ev=self._dispersion_ev,
            offset_ev=self._offset_ev,
            channels=CHANNELS,
            resolution_ev=float(np.hypot(self._column.settings.energy_resolution_ev, blur)),
        )
        while len(self._models) > MODELS_KEPT:
            self._models.popitem(last=False)
        return self._models[key]
