"""Electron energy-loss spectra: a compound Poisson process, evaluated in Fourier space.

On its way through the specimen an electron meets each loss process k (plasmons of a material, the ionisation of an element)
a Poisson-distributed number of times, with mean a_k = t / lambda_k or areal density times cross-section. With p_k(E) the loss
of one event, Z(E) the zero-loss peak and F the Fourier transform over energy, the recorded distribution is

    P = F^-1[ F[Z] · exp( sum_k a_k (F[p_k] - 1) ) ]

(Egerton, *Electron Energy-Loss Spectroscopy in the Electron Microscope*, 3rd ed., sections 3.4 and 4.1): plural plasmon losses,
core losses blurred by them, and a total of one electron whatever the thickness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..schema import BadInput

Cumulative = Callable[[np.ndarray], np.ndarray]


def gaussian_cumulative(energy_ev: np.ndarray, fwhm_ev: float) -> np.ndarray:
    """Cumulative of a Gaussian at zero with the given width."""
    from scipy.special import ndtr

    return np.asarray(ndtr(np.asarray(energy_ev) * (2.354820045 / fwhm_ev)))


def zero_loss_cumulative(energy_ev: np.ndarray, fwhm_ev: float, tail: float = 0.05) -> np.ndarray:
    """Cumulative of the zero-loss peak: a Gaussian with a share `tail` in wings three times as wide."""
    return (1 - tail) * gaussian_cumulative(energy_ev, fwhm_ev) + tail * gaussian_cumulative(energy_ev, 3 * fwhm_ev)


def drude_loss(energy_ev: np.ndarray, plasmon_ev: float, width_ev: float) -> np.ndarray:
    """Im(-1/epsilon) of free electrons: E Γ Ep² / ((E² - Ep²)² + (E Γ)²). Falls as E⁻³."""
    energy = np.asarray(energy_ev, dtype=float)
    numerator = energy * width_ev * plasmon_ev**2
    return np.asarray(numerator / ((energy**2 - plasmon_ev**2) ** 2 + (energy * width_ev) ** 2))


def power_law_cumulative(energy_ev: np.ndarray, exponent: float, onset_ev: float) -> np.ndarray:
    """Cumulative of E^-`exponent` from `onset_ev` on."""
    reach = np.maximum(np.asarray(energy_ev, dtype=float), onset_ev)
    return np.asarray(1 - (reach / onset_ev) ** (1 - exponent))


def valence_cumulative(
    plasmon_ev: float, width_ev: float, *, tail: float = 0.14, exponent: float = 3.1, tail_onset_ev: float = 40.0
) -> Cumulative:
    """Loss of one valence event: a Drude plasmon and, with share `tail`, the power law that edges stand on.

    The angular range seen by a spectrometer makes the measured tail steeper than Drude's and material-dependent
    (exponents of 2.5 to 4), which one plasmon-pole model cannot give: hence the second part. It sets in smoothly around
    `tail_onset_ev` and is a power law to within 2 % from 2.7 times that energy on. `exponent` must be below 4.
    """
    if plasmon_ev <= 0 or width_ev <= 0:
        raise BadInput(f"plasmon energy and width must be positive, got {plasmon_ev} and {width_ev} eV.")
    fine = np.concatenate((np.linspace(0.0, 100.0, 4001), np.geomspace(100.05, 6000.0, 3000)))
    reduced = fine / tail_onset_ev
    rising = np.divide(reduced ** (4 - exponent), 1 + reduced**4, out=np.zeros_like(fine), where=fine > 0)
    running = np.zeros_like(fine)
    for share, density in ((1 - tail, drude_loss(fine, plasmon_ev, width_ev)), (tail, rising)):
        part = np.concatenate(([0.0], np.cumsum(np.diff(fine) * (density[1:] + density[:-1]) / 2)))
        running += share * part / part[-1]

    def cumulative(energy_ev: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(energy_ev, fine, running, left=0.0, right=1.0))

    return cumulative


@dataclass(frozen=True)
class LossProcess:
    """A kind of energy loss.

    Attributes
    ----------
    name : str
    cumulative : callable
        Probability that one event costs at most the given energy in eV; 0 below zero.
    """

    name: str
    cumulative: Cumulative


class SpectrumModel:
    """The spectrum a perfect spectrometer sees, for one energy axis and a set of loss processes.

    Parameters
    ----------
    processes : sequence of LossProcess
    dispersion_ev : float
        eV per channel.
    offset_ev : float
        Energy at the centre of channel 0.
    channels : int
    resolution_ev : float
        Full width at half maximum of the zero-loss peak.

    Notes
    -----
    Everything is integrated over channels, not sampled, so sharp peaks keep their area at any dispersion. The transform covers
    twice the range from zero loss to the last channel: sums of two events beyond the range cannot wrap around into it.
    """

    def __init__(
        self,
        processes: Sequence[LossProcess],
        *,
        dispersion_ev: float,
        offset_ev: float,
        channels: int,
        resolution_ev: float,
    ) -> None:
        if dispersion_ev <= 0 or resolution_ev <= 0 or channels < 1:
            raise BadInput(
                "an energy axis needs a positive dispersion, resolution and number of channels, got "
                f"{dispersion_ev} eV, {resolution_ev} eV and {channels}."
            )
        from scipy.fft import next_fast_len, rfft

        self.processes = tuple(processes)
        self.channels = channels
        self.energy_ev = offset_ev + dispersion_ev * np.arange(channels)
        # The zero-loss peak is needed whole even where the axis starts above it; the grid must still hit the channels.
        reach = 10 * resolution_ev
        self._lead = max(0, int(np.ceil((offset_ev + reach) / dispersion_ev)))
        first = offset_ev - self._lead * dispersion_ev
        used = self._lead + channels
        self._size = int(next_fast_len(2 * used, real=True))
        bins = np.arange(used + 1) - 0.5
        zero_loss = np.diff(zero_loss_cumulative(first + bins * dispersion_ev, resolution_ev))
        losses = np.array([np.diff(p.cumulative(bins * dispersion_ev)) for p in processes]).reshape(
            len(processes), used
        )
        self._zero_loss = rfft(zero_loss, self._size)
        # float view: a real vector times a complex matrix is then one small real product
        self._losses = np.ascontiguousarray(rfft(losses, self._size, axis=-1)).view(float)

    def probabilities(self, events: np.ndarray) -> np.ndarray:
        """Probability per channel and electron, shape ``(channels,)``.

        Parameters
        ----------
        events : array_like, shape (processes,)
            Mean number of events of each process per electron, not negative.
        """
        from scipy.fft import irfft

        mean = np.asarray(events, dtype=float)
        if mean.shape != (len(self.processes),) or not np.all(mean >= 0):
            raise BadInput(f"expected {len(self.processes)} mean event numbers, none negative, got {mean}.")
        exponent = (mean @ self._losses).view(complex) - mean.sum()
        spectrum = irfft(self._zero_loss * np.exp(exponent), self._size)
        return np.asarray(np.maximum(spectrum[self._lead : self._lead + self.channels], 0.0))


def record(
    electrons: np.ndarray,
    rng: np.random.Generator,
    *,
    counts_per_electron: float = 1.0,
    read_noise_counts: float = 0.0,
    dark_electrons: float = 0.0,
) -> np.ndarray:
    """Counts a detector reads for a mean number of electrons per channel, with its mean dark signal subtracted.

    Parameters
    ----------
    electrons : ndarray
        Mean electrons per channel.
    rng : numpy.random.Generator
    counts_per_electron : float
        Gain: the variance of the counts is ``counts_per_electron`` times their mean, plus the read-out noise squared.
    read_noise_counts : float
        Standard deviation of the read-out noise.
    dark_electrons : float
        Mean dark signal per channel, in electrons; its noise stays when its mean is subtracted.

    Returns
    -------
    ndarray of float32
        May be slightly negative, as dark-subtracted spectra are.
    """
    counts = counts_per_electron * (rng.poisson(electrons + dark_electrons) - dark_electrons)
    if read_noise_counts > 0:
        counts = counts + rng.normal(0.0, read_noise_counts, np.shape(electrons))
    return np.asarray(counts, dtype=np.float32)


def log_ratio_thickness(energy_ev: np.ndarray, spectrum: np.ndarray, zero_loss_end_ev: float = 3.0) -> float:
    """Relative thickness t / lambda as ln(total / zero-loss) (Egerton, section 5.1).

    Parameters
    ----------
    energy_ev, spectrum : ndarray, shape (channels,)
        A low-loss spectrum whose range begins below the zero-loss peak.
    zero_loss_end_ev : float
        The zero-loss peak is what lies below this energy.
    """
    zero_loss = float(np.sum(spectrum[energy_ev < zero_loss_end_ev]))
    total = float(np.sum(spectrum))
    if not zero_loss > 0 or total < zero_loss:
        raise BadInput("the spectrum has no zero-loss peak; t/lambda needs a low-loss spectrum that begins below 0 eV.")
    return float(np.log(total / zero_loss))
