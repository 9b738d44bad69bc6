"""Make a spectrum image ready: crop, bin, spikes, zero-loss alignment, background, deconvolution; recorded and undoable.

Every step is a function of a `Frame` and plain settings. `Preparation` keeps the steps, not the data: undoing one is
leaving it out, and the list of steps is the record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..schema import BadInput
from ..schema.frame import Axis, Frame
from .prepare_paint import sum_painted
from .zlp_centre import zero_loss_centres

Report = Callable[[float, str], None]
"""Told the fraction done and a word; may raise `Cancelled`."""
DECONVOLVED = 256
"""Spectra that are deconvolved at once, in less than a second; the work can be stopped between."""
FEW_NEGATIVES = 0.01
"""Part of the values; fewer negative ones can be set to zero."""
SPIKE_VALUES = 1_000_000
"""Values of a spectrum image whose medians are taken at once."""


def as_map(frame: Frame) -> Frame:
    """A line scan ``(x, energy)`` as a map of one row; a map as it is."""
    if frame.data.ndim != 2:
        return frame
    return frame.with_data(frame.data[None], axes=(frame.axes[0].model_copy(update={"name": "y"}), *frame.axes))


def crop_energy(frame: Frame, *, first_ev: float, last_ev: float) -> Frame:
    """Keep the channels from `first_ev` to `last_ev`."""
    energy = frame.axes[-1].coordinates(frame.shape[-1])
    inside = np.flatnonzero((energy >= min(first_ev, last_ev)) & (energy <= max(first_ev, last_ev)))
    if len(inside) < 4:
        raise BadInput(
            f"Between {first_ev:g} and {last_ev:g} eV there are {len(inside)} channels; the data goes from"
            f" {energy[0]:g} to {energy[-1]:g} eV."
        )
    axis = frame.axes[-1]
    kept = axis.model_copy(update={"offset": float(energy[inside[0]])})
    return frame.with_data(frame.data[..., inside[0] : inside[-1] + 1], axes=(*frame.axes[:-1], kept))


def crop_area(frame: Frame, *, top: int, bottom: int, left: int, right: int) -> Frame:
    """Keep rows `top` .. `bottom` - 1 and columns `left` .. `right` - 1."""
    rows, columns = frame.shape[:2]
    if not (0 <= top < bottom <= rows and 0 <= left < right <= columns):
        raise BadInput(f"Rows {top}..{bottom} and columns {left}..{right} are not inside of {rows}x{columns} pixels.")
    y, x = frame.axes[:2]
    axes = (
        y.model_copy(update={"offset": y.offset + top * y.scale}),
        x.model_copy(update={"offset": x.offset + left * x.scale}),
        *frame.axes[2:],
    )
    return frame.with_data(frame.data[top:bottom, left:right], axes=axes)


def bin_by(frame: Frame, *, y: int = 1, x: int = 1, energy: int = 1) -> Frame:
    """Sum neighbouring rows, columns and channels; what does not fill a bin at the end is left out. Counts are kept."""
    factors = (y, x, energy)
    if any(factor < 1 or factor > size for factor, size in zip(factors, frame.shape, strict=True)):
        raise BadInput(f"Cannot bin {'x'.join(map(str, frame.shape))} by {y}, {x}, {energy}.")
    sizes = [size // factor for size, factor in zip(frame.shape, factors, strict=True)]
    data = np.asarray(frame.data)[tuple(slice(n * f) for n, f in zip(sizes, factors, strict=True))]
    data = data.reshape(sizes[0], y, sizes[1], x, sizes[2], energy).sum(axis=(1, 3, 5))
    axes = tuple(_binned(axis, factor) for axis, factor in zip(frame.axes, factors, strict=True))
    return frame.with_data(data, axes=axes)


def _binned(axis: Axis, factor: int) -> Axis:
    offset = axis.offset + 0.5 * (factor - 1) * axis.scale  # the centre of the first bin
    return axis.model_copy(update={"scale": axis.scale * factor, "offset": offset})


def remove_spikes(frame: Frame, *, threshold: float = 8.0, report: Report | None = None) -> Frame:
    """Replace single channels that stand out of their neighbours, in energy and from the mean spectrum, by `threshold` sigma.

    A spike (a cosmic ray, an X-ray in the camera) is high in one pixel only and one or two channels wide; a spectral line
    is in the neighbours too. `report` is told the fraction done and a word, and may raise `Cancelled`.
    """
    tell = report or _nobody
    data = np.asarray(frame.data)
    smooth = _medians(data, (1,) * (data.ndim - 1) + (7,), lambda part: tell(0.5 * part, "neighbours in energy"))
    around = _medians(data, (3,) * (data.ndim - 1) + (1,), lambda part: tell(0.5 + 0.45 * part, "neighbouring pixels"))
    level = np.maximum(np.maximum(smooth, around), 0.0)
    difference = data - level
    sigma = np.sqrt(np.maximum(level, 1.0))
    spread = 1.4826 * float(np.median(np.abs(data - smooth) / sigma))  # one for counts
    spikes = difference > threshold * max(spread, 1.0) * sigma
    cleaned = np.where(spikes, np.rint(level) if data.dtype.kind in "iu" else level, data).astype(data.dtype)
    return frame.with_data(cleaned)


def zero_negatives(frame: Frame) -> Frame:
    """Set the few negative values that read-out noise leaves in counts to zero, so that they can be unmixed as counts.

    Raises
    ------
    BadInput
        More than `FEW_NEGATIVES` of the values are negative: then it is no read-out noise, and the sums would change.
    """
    data = np.asarray(frame.data)
    part = float(np.mean(data < 0))
    if part > FEW_NEGATIVES:
        raise BadInput(
            f"{100 * part:.2g} % of the values are negative: these are no counts with read-out noise; unmix them as they are."
        )
    return frame.with_data(np.maximum(data, 0))


def _nobody(_fraction: float, _word: str) -> None:
    """Nobody wants to know how far a step is."""


def _medians(data: np.ndarray, size: tuple[int, ...], tell: Callable[[float], None]) -> np.ndarray:
    """Running medians, some rows at a time, so that the work can be stopped between them."""
    from scipy.ndimage import median_filter

    reach = size[0] // 2
    rows = max(1, SPIKE_VALUES // max(1, int(np.prod(data.shape[1:]))))
    out = np.empty(data.shape, dtype=np.float64)
    for start in range(0, len(data), rows):
        tell(start / len(data))
        first, last = max(0, start - reach), min(len(data), start + rows + reach)
        part = median_filter(data[first:last], size=size, mode="nearest")
        out[start : start + rows] = part[start - first : start - first + rows]
    return out


def align_zero_loss(frame: Frame) -> Frame:
    """Shift every spectrum so that its zero-loss peak is at 0 eV, to a fraction of a channel.

    The peak's centre is that of a parabola through the logarithms of its upper half (`zlp_centre`).
    """
    data = np.asarray(frame.data, dtype=np.float64)
    axis = frame.axes[-1]
    flat = data.reshape(-1, data.shape[-1])
    centre = zero_loss_centres(flat)
    wanted = -axis.offset / axis.scale
    if not -0.5 <= wanted <= flat.shape[1] - 0.5:
        raise BadInput(f"0 eV is not in these spectra (they begin at {axis.offset:g} eV): align the low loss first.")
    channels = np.arange(flat.shape[1])
    shifted = np.stack([np.interp(channels + c - wanted, channels, row) for c, row in zip(centre, flat, strict=True)])
    return frame.with_data(shifted.reshape(data.shape))


def subtract_power_law(frame: Frame, *, first_ev: float, last_ev: float) -> Frame:
    """Subtract ``A E^-r`` fitted to ``first_ev .. last_ev`` before an edge, pixel by pixel (two-area method)."""
    energy = frame.axes[-1].coordinates(frame.shape[-1])
    if energy[0] <= 0 and first_ev <= 0:
        raise BadInput("A power law is fitted at energies above zero.")
    middle = 0.5 * (first_ev + last_ev)
    one = (energy >= first_ev) & (energy < middle)
    two = (energy >= middle) & (energy <= last_ev)
    if one.sum() < 2 or two.sum() < 2:
        raise BadInput(f"Between {first_ev:g} and {last_ev:g} eV there are too few channels for a background.")
    data = np.asarray(frame.data, dtype=np.float64)
    low, high = data[..., one].mean(axis=-1), data[..., two].mean(axis=-1)
    positive = np.maximum(energy, 1e-3) / first_ev
    exponents = np.linspace(0.0, 12.0, 1201)
    powers = positive[None, :] ** -exponents[:, None]
    falls = powers[:, two].mean(axis=1) / powers[:, one].mean(axis=1)  # falling with the exponent: inverted by a table
    ratio = np.where(low > 0, high / np.where(low > 0, low, 1.0), 1.0)
    exponent = np.interp(-ratio, -falls, exponents)
    shape = positive ** -exponent[..., None]
    background = np.maximum(low, 0.0)[..., None] * shape / shape[..., one].mean(axis=-1, keepdims=True)
    return frame.with_data(np.where(energy >= first_ev, data - background, 0.0))


def subtract_polynomial(frame: Frame, *, first_ev: float, last_ev: float, degree: int = 1) -> Frame:
    """Subtract a polynomial fitted to ``first_ev .. last_ev``, pixel by pixel."""
    energy = frame.axes[-1].coordinates(frame.shape[-1])
    inside = (energy >= first_ev) & (energy <= last_ev)
    if inside.sum() <= degree + 1:
        raise BadInput(f"Between {first_ev:g} and {last_ev:g} eV there are too few channels for degree {degree}.")
    middle, half = 0.5 * (first_ev + last_ev), 0.5 * max(last_ev - first_ev, 1e-9)
    basis = ((energy - middle) / half)[:, None] ** np.arange(degree + 1)
    data = np.asarray(frame.data, dtype=np.float64)
    amounts = data[..., inside] @ np.linalg.pinv(basis[inside]).T
    return frame.with_data(data - amounts @ basis.T)


def sum_mask(frame: Frame, mask: np.ndarray) -> Frame:
    """Sum of the spectra of the pixels in `mask` ``(y, x)``."""
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != frame.shape[:2] or not mask.any():
        raise BadInput(f"The mask is {mask.shape} with {int(mask.sum())} pixels; the image is {frame.shape[:2]}.")
    return frame.with_data(np.asarray(frame.data)[mask].sum(axis=0), axes=frame.axes[2:])


def deconvolve(frame: Frame, low_loss: Frame, *, mean: bool = False, report: Report | None = None) -> Frame:
    """Remove plural scattering from a core loss by Fourier-ratio deconvolution with its low loss, through exspy.

    Parameters
    ----------
    frame : Frame
        Core loss ``(y, x, energy)`` or ``(x, energy)``; the background before the edges is best subtracted first.
    low_loss : Frame
        With its zero-loss peak and the same dispersion; pixel by pixel where it has the same pixels, otherwise its mean.
    mean : bool
        The mean low loss for all: less noise, and right where the thickness is the same everywhere.
    report : callable, optional
        Told the fraction done and a word; may raise `Cancelled`.

    Raises
    ------
    BadInput
        Another dispersion, or no zero-loss peak.
    """
    tell = report or _nobody
    step, low_step = frame.axes[-1].scale, low_loss.axes[-1].scale
    if abs(step - low_step) > 1e-3 * abs(step):
        raise BadInput(
            f"The core loss has {step:g} eV per channel and the low loss {low_step:g}: bin one of them to the same."
        )
    energy = low_loss.axes[-1].coordinates(low_loss.shape[-1])
    if not energy[0] < 0 < energy[-1] or frame.axes[-1].offset <= 0:
        raise BadInput("Deconvolution takes a core loss, and a low loss with its zero-loss peak inside of it.")
    tell(0.0, "reading the low loss")
    core = np.asarray(frame.data, dtype=np.float64).reshape(-1, frame.shape[-1])
    low = np.asarray(low_loss.data, dtype=np.float64).reshape(-1, low_loss.shape[-1])
    if mean or low_loss.shape[:-1] != frame.shape[:-1]:
        low = low.mean(axis=0, keepdims=True)
    tell(0.02, "starting exspy")
    left, whole = np.empty_like(core), _eels(low, low_loss.axes[-1])
    width = float(whole.inav[0].estimate_peak_width().data[0])
    with _quiet():
        ends = whole.estimate_elastic_scattering_threshold()  # of a block alone they would be others
    for start in range(0, len(core), DECONVOLVED):
        tell(0.05 + 0.95 * start / len(core), "plural scattering")
        part, some = core[start : start + DECONVOLVED], slice(start, start + DECONVOLVED)
        under = _eels(low[some] if len(low) > 1 else np.repeat(low, len(part), axis=0), low_loss.axes[-1])
        with _quiet():
            end = ends.inav[some] if len(low) > 1 else under.estimate_elastic_scattering_threshold()
            left[some] = _single(_eels(part, frame.axes[-1]), under, {"fwhm": width, "threshold": end})
    # exspy blurs with a Gaussian of area one in eV, summed over channels: one over the dispersion too much
    return frame.with_data((left * abs(step)).reshape(frame.shape))


def _single(core: Any, low: Any, settings: dict[str, Any]) -> np.ndarray:
    """Some spectra without plural scattering."""
    try:
        found = core.fourier_ratio_deconvolution(low, **settings)
    except (TypeError, ValueError, ZeroDivisionError) as error:  # what its power law beyond the last channel raises
        raise BadInput(
            "exspy cannot take plural scattering out of these spectra: the last 20 channels of the core loss and the last 100"
            f" of the low loss have to fall like a power law ({error})."
        ) from error
    return np.asarray(found.data)[..., : core.data.shape[-1]]


@contextmanager
def _quiet() -> Iterator[None]:
    """HyperSpy without its progress bars, and without saying for each block of spectra that numexpr is not there."""
    import hyperspy.api as hs

    log, bars = logging.getLogger("hyperspy._components.expression"), hs.preferences.General.show_progressbar
    level = log.level
    log.setLevel(logging.ERROR)
    hs.preferences.General.show_progressbar = False
    try:
        yield
    finally:
        log.setLevel(level)
        hs.preferences.General.show_progressbar = bars


def _eels(spectra: np.ndarray, axis: Axis) -> Any:
    """Spectra ``(n, energy)`` as exspy has them."""
    import exspy

    axes: list[dict[str, Any]] = [
        {"name": "pixel", "size": len(spectra), "navigate": True},
        {
            "name": "E",
            "units": "eV",
            "scale": axis.scale,
            "offset": axis.offset,
            "size": spectra.shape[-1],
            "navigate": False,
        },
    ]
    return exspy.signals.EELSSpectrum(spectra.copy(), axes=axes)


def subtract_zero_loss(frame: Frame, **settings: Any) -> Frame:
    """Subtract the zero-loss peak that replicas of small networks learn from the spectra; see `zlp.subtract_zero_loss`.

    Settings: ``onset_ev`` where loss begins (found where it is not given), ``replicas``, ``groups``, ``seed``; ``report`` is
    told the fraction done and a word, and may raise `Cancelled`.
    """
    from .zlp import subtract_zero_loss as learnt

    return learnt(frame, **settings)


STEPS: Mapping[str, Callable[..., Frame]] = {
    "crop_energy": crop_energy,
    "crop_area": crop_area,
    "bin": bin_by,
    "spikes": remove_spikes,
    "zero_negatives": zero_negatives,
    "align_zero_loss": align_zero_loss,
    "power_law": subtract_power_law,
    "polynomial": subtract_polynomial,
    "zero_loss": subtract_zero_loss,
    "deconvolve": deconvolve,
    "sum_painted": sum_painted,
}
"""Every step by name. `deconvolve` needs another frame, the others settings alone."""
REPORTING = frozenset({"spikes", "zero_loss", "deconvolve"})
"""Steps that take long: they tell a ``report`` how far they are, and stop where it raises `Cancelled`."""


def _recorded(value: Any) -> Any:
    """A setting as JSON: of a frame, where it came from."""
    return str(value.metadata.get("file", value.signal)) if isinstance(value, Frame) else value


@dataclass
class Preparation:
    """A frame and the steps it went through.

    Parameters
    ----------
    source : Frame
        Never changed.
    steps : list of (str, dict)
        Names of `STEPS` with their settings.
    """

    source: Frame
    steps: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _undone: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _results: list[Frame] = field(default_factory=list)

    @property
    def frame(self) -> Frame:
        """What came out of the last step; the source where there is none. Carries the steps in its metadata."""
        if not self._results:
            return self.source
        record = [
            {"step": name, **{key: _recorded(value) for key, value in settings.items()}}
            for name, settings in self.steps
        ]
        last = self._results[-1]
        return last.with_data(last.data, metadata={**last.metadata, "preparation": record})

    def apply(self, name: str, *, report: Report | None = None, **settings: Any) -> Frame:
        """Do one more step. BadInput says what does not fit, and then nothing is changed.

        `report` is told how far the long ones (`REPORTING`) are; what it raises ends the step, and nothing is changed.
        """
        if name not in STEPS:
            raise BadInput(f"There is no step {name!r}; there are {', '.join(STEPS)}.")
        before = self._results[-1] if self._results else self.source
        telling = {"report": report} if report is not None and name in REPORTING else {}
        after = STEPS[name](before, **settings, **telling)
        self._results.append(after)
        self.steps.append((name, settings))
        self._undone.clear()
        return self.frame

    def undo(self) -> bool:
        """Take the last step back; False where there is none."""
        if not self.steps:
            return False
        self._undone.append(self.steps.pop())
        self._results.pop()
        return True

    def redo(self) -> bool:
        """Do again what was taken back last; False where there is nothing."""
        if not self._undone:
            return False
        waiting = self._undone[:-1]
        name, settings = self._undone[-1]
        self.apply(name, **settings)
        self._undone = waiting
        return True
