"""The simulated microscope: one physically coupled digital twin, the default instrument.

Importing this costs nothing; `connect` loads the rest. Parts, one file each: `specimens` (ground truth), `column` (beam, probe,
dose, drift, blanker), `scanner`, `spectrometer`, `clock`. A further detector, such as a camera for the angle plane, is one more
part that asks the column where the beam is and how many electrons it delivered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .microscope import SimulatedMicroscope

SPECIMENS = ("core-shell", "two-phase", "polymer")


def connect(
    specimen: str = "core-shell",
    seed: int = 0,
    speed: float | None = 1.0,
    *,
    field_nm: float = 200.0,
    beam_current_pa: float = 50.0,
    high_tension_v: float = 200e3,
    convergence_mrad: float = 20.0,
    collection_mrad: float = 40.0,
    energy_resolution_ev: float = 0.8,
    drift_nm_per_s: tuple[float, float] = (0.02, 0.015),
    drift_walk_nm: float = 0.02,
    line_jitter_nm: float = 0.1,
    contamination: bool = True,
    counts_per_electron: float = 1.0,
    read_noise_counts: float = 0.5,
    sorter: bool = False,
    phase_plate: bool = False,
    misalignment: float = 0.0,
    optics_imperfection: float = 0.0,
    camera_half_angle_mrad: float = 30.0,
    camera_pixels: int = 512,
) -> SimulatedMicroscope:
    """Switch a simulated microscope on.

    Parameters
    ----------
    specimen : str
        One of `SPECIMENS`.
    seed : int
        Of the specimen, the drift and the noise: the same seed and the same commands give the same data where `speed` is None.
    speed : float or None
        Virtual seconds per real second; 1.0 is real time, None (or infinity) as fast as the computer can.
    field_nm : float
        Side of the square field of view, 20 to 1000 nm.
    beam_current_pa, high_tension_v, convergence_mrad, collection_mrad, energy_resolution_ev : float
        The optics, in pA, V, mrad, mrad and eV.
    drift_nm_per_s : (float, float)
        Steady drift of the specimen, (y, x); what was at a place is, one second later, at that place plus this.
    drift_walk_nm : float
        Random walk on top of it, in nm per square root of a second.
    line_jitter_nm : float
        Standard deviation of the shift of a scan line along x.
    contamination : bool
        Whether carbon grows where the beam stands.
    counts_per_electron, read_noise_counts : float
        Gain and read-out noise of the spectrometer.
    misalignment : float
        How far the column is misaligned at the start; 1: up to C1 200 nm, A1 100 nm, B2 and A2 1 um, C3 100 um, and something of
        higher orders. Nobody is told.
    optics_imperfection : float
        Cross-talk, play, noise and drift of the optics, 1 as usual; 0: controls do exactly what they say.
    camera_half_angle_mrad : float
        From the middle of the Ronchigram camera's frame to the middle of its edge. The camera needs torch.
    camera_pixels : int
        128, 256, 512 or 1024.
    sorter : bool
        Whether an orbital-angular-momentum sorter stands in the column, misaligned: a camera ``"sorter"`` and five controls.
    phase_plate : bool
        Whether a programmable phase plate shapes the illumination: eight needles and a shift as controls, a camera ``"pattern"``
        that sees the illumination, and a detector ``"bucket"`` that counts all electrons behind the specimen.

    Raises
    ------
    BadInput
        For an unknown specimen or a setting that makes no sense.
    """
    from .microscope import Settings, SimulatedMicroscope

    return SimulatedMicroscope(
        Settings.checked(
            specimen=specimen,
            seed=seed,
            speed=speed,
            field_nm=field_nm,
            beam_current_pa=beam_current_pa,
            high_tension_v=high_tension_v,
            convergence_mrad=convergence_mrad,
            collection_mrad=collection_mrad,
            energy_resolution_ev=energy_resolution_ev,
            drift_nm_per_s=drift_nm_per_s,
            drift_walk_nm=drift_walk_nm,
            line_jitter_nm=line_jitter_nm,
            contamination=contamination,
            counts_per_electron=counts_per_electron,
            read_noise_counts=read_noise_counts,
            sorter=sorter,
            phase_plate=phase_plate,
            misalignment=misalignment,
            optics_imperfection=optics_imperfection,
            camera_half_angle_mrad=camera_half_angle_mrad,
            camera_pixels=camera_pixels,
        )
    )
