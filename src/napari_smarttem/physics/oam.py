"""The orbital-angular-momentum sorter: two phase elements that turn orbital angular momentum into position.

An *unwrapper* S1 maps the beam from polar to Cartesian coordinates, a *corrector* S2 in its Fourier plane flattens what remains
of the phase, a second lens focuses: the state of orbital angular momentum l lands l steps beside the axis.

    W12(x, y) =  (k a / f1) [ y atan2(y, x) - x ln(sqrt(x^2 + y^2) / b) + x ]
    W21(u, v) = -(k a b / f1) exp(-u / a) cos(v / a)
    u = -a ln(r / b),  v = a theta,  t_l = l lambda f2 / (2 pi a)

(Berkhout et al., Phys. Rev. Lett. 105 (2010) 153601; for electrons Grillo et al., Nat. Commun. 8 (2017) 15536.)

Everything here is in reduced units, in which only two numbers are left: lengths at S1 in units of the radius R of the aperture,
lengths at S2 in units of `a`, the camera in steps of one hbar, and the strength ``Q = k a R / f1``. W12 is then
``Q [Y theta - X ln(r / b) + X]`` and the transform between the planes ``exp(-i Q (X U + Y V))``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .oam_states import InputState

PARAMETERS = ("df", "SM", "shx", "shy", "beta")
UNITS = {"df": "rad", "SM": "1", "shx": "a", "shy": "a", "beta": "rad"}
"""`df` is the quadratic phase at the rim of S1's aperture, `SM` the excess size of the beam at S2, `shx` and `shy` the shift of the
corrector in units of `a`, `beta` its rotation."""


@dataclass(frozen=True)
class SorterOptics:
    """What a sorter is, apart from its five misalignments.

    Parameters
    ----------
    strength : float
        ``Q = k a R / f1``; the larger, the sharper the beam at S2 and the finer it has to be sampled.
    b : float
        Radius that is mapped to ``u = 0``, in units of R.
    needle_width : float
        Width of the shadow of the charged needle of S1, which lies on the branch cut (negative x), in units of R.
    tip_radius : float
        Radius of the shadow of its tip, in units of R.
    u_reach, v_reach : float
        Half-apertures of S2 in units of `a`: ``u`` from ``-margin`` to `u_reach`, ``|v| <= v_reach``.
    source_hbar : float
        Standard deviation of the incoherent source and of the camera's point spread, in steps of one hbar.
    pixels, pixel_hbar : int, float
        Side of the square camera and of one of its pixels.
    largest_df : float
        Largest defocus the model is made for, in rad.
    oversampling : float
        Of S1, against its steepest phase.
    step : float
        Sampling of S2 in units of `a`. Behind the corrector the phase is flat but for the misalignments, so that only what lands
        more than ``2 pi / step`` hbar away is folded back onto the camera.
    """

    strength: float = 60.0
    b: float = 1.0
    needle_width: float = 0.03
    tip_radius: float = 0.03
    u_reach: float = 3.4
    u_margin: float = 0.9
    v_reach: float = 4.1
    source_hbar: float = 0.1
    pixels: int = 64
    pixel_hbar: float = 0.5
    largest_df: float = 45.0
    oversampling: float = 1.3
    step: float = 0.055


class Sorter:
    """The forward model, with its derivatives.

    The field at S2 depends on the defocus alone and is kept as a Chebyshev series in it; the corrector's phase is the real part
    of a product of a function of u and one of v, whatever its rotation and size; the camera is two small matrix products. One
    picture costs about a millisecond.

    Parameters
    ----------
    optics : SorterOptics
    state : InputState
        What enters; a plane wave unless said otherwise.
    """

    def __init__(self, optics: SorterOptics | None = None, state: InputState | None = None) -> None:
        from .oam_states import plane_wave

        self.optics = optics or SorterOptics()
        self.state = state or plane_wave()
        o = self.optics
        # S1 is sampled for the steepest phase of W12, Q pi, and for the defocus
        steepest = o.strength * np.hypot(np.pi, 1.0) + 2.0 * o.largest_df
        self._x = _centres(1.02, int(np.ceil(2 * 1.02 * steepest / np.pi * o.oversampling)))
        n_u = int(np.ceil((o.u_reach + o.u_margin) / o.step))
        self.u = -o.u_margin + (np.arange(n_u) + 0.5) * (o.u_reach + o.u_margin) / n_u
        self.v = _centres(o.v_reach, int(np.ceil(2 * o.v_reach / o.step)))
        self.hbar = (np.arange(o.pixels) - 0.5 * (o.pixels - 1)) * o.pixel_hbar
        self._to_p = _kernel(self.hbar, self.u)
        self._to_t = _kernel(self.hbar, self.v).T.copy()
        self._blur = _blur_matrix(o.pixels, o.pixel_hbar, o.source_hbar).astype(np.float32)

    # -- the planes

    @functools.cached_property
    def entrance(self) -> np.ndarray:
        """Amplitudes just before S1, shape ``(components, y, x)``; the intensities of all add up to 1 without the shadows."""
        y, x = np.meshgrid(self._x, self._x, indexing="ij")
        cell = (self._x[1] - self._x[0]) ** 2
        rim = float(np.sqrt(cell))
        radius = np.hypot(x, y)
        inside = np.clip((1.0 - radius) / rim + 0.5, 0.0, 1.0)
        amplitudes = self.state.amplitudes(radius, np.arctan2(y, x)) * inside
        amplitudes /= np.sqrt(np.sum(np.abs(amplitudes) ** 2) * cell)
        o = self.optics
        away = np.asarray(np.where(x < 0, np.abs(y), radius))  # from the needle, and in front of it from its tip
        needle: np.ndarray = np.clip((away - 0.5 * o.needle_width) / rim + 0.5, 0.0, 1.0)
        tip = np.clip((radius - o.tip_radius) / rim + 0.5, 0.0, 1.0)
        return np.asarray(amplitudes * needle * tip)

    def unwrapped(self, df: float) -> np.ndarray:
        """The field at S2 before the corrector by direct summation, shape ``(components, v, u)``; the table is made of these."""
        o = self.optics
        y, x = np.meshgrid(self._x, self._x, indexing="ij")
        radius = np.maximum(np.hypot(x, y), 1e-9)
        w12 = o.strength * (y * np.arctan2(y, x) - x * np.log(radius / o.b) + x)
        field = self.entrance * np.exp(1j * (w12 + df * radius**2))
        cell = (self._x[1] - self._x[0]) ** 2
        rows = np.exp(-1j * o.strength * np.outer(self.v, self._x))
        columns = np.exp(-1j * o.strength * np.outer(self._x, self.u))
        return np.asarray(rows @ field @ columns * (o.strength / (2 * np.pi) * cell))

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """Chebyshev coefficients in ``df / largest_df`` of the field at S2, real view, shape ``(terms, values)``."""
        reach = self.optics.largest_df
        terms = int(np.ceil(0.5 * reach + 8 * reach ** (1 / 3)))
        nodes = np.cos(np.pi * (np.arange(terms) + 0.5) / terms)
        # the quadratic phase about its middle turns half as fast; the rest is a constant phase that no camera sees
        values = np.stack([np.exp(-0.5j * reach * d) * self.unwrapped(reach * d) for d in nodes])
        basis = np.cos(np.arange(terms)[:, None] * np.arccos(nodes)[None])
        coefficients = np.tensordot(basis, values, axes=1) * (2.0 / terms)
        coefficients[0] *= 0.5
        return np.ascontiguousarray(coefficients.astype(np.complex64)).view(np.float32).reshape(terms, -1)

    def _field(self, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Field at S2 and its derivative by df, shape ``(n, components, v, u)``, complex64."""
        reach = self.optics.largest_df
        if np.any(np.abs(df) > reach):
            raise ValueError(f"|df| must not exceed {reach:g} rad, got {np.abs(df).max():g}")
        terms = len(self._table)
        angle = np.arccos(np.clip(df / reach, -1 + 1e-9, 1 - 1e-9))
        order = np.arange(terms)
        polynomials = np.cos(angle[:, None] * order)
        slopes = order * np.sin(angle[:, None] * order) / np.sin(angle)[:, None] / reach
        both = np.concatenate((polynomials, slopes)).astype(np.float32) @ self._table
        shape = (2, len(df), -1, len(self.v), len(self.u))
        field, slope = both.view(np.complex64).reshape(shape)
        return field, slope

    def _field_only(self, df: np.ndarray) -> np.ndarray:
        reach = self.optics.largest_df
        if np.any(np.abs(df) > reach):
            raise ValueError(f"|df| must not exceed {reach:g} rad, got {np.abs(df).max():g}")
        polynomials = np.cos(np.arccos(df / reach)[:, None] * np.arange(len(self._table)))
        both = polynomials.astype(np.float32) @ self._table
        return np.asarray(both.view(np.complex64).reshape(len(df), -1, len(self.v), len(self.u)))

    def _corrector(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``exp(-zeta (w - s))`` and zeta, for ``w = u + i v``: its real part is exp(-u') cos(v') in the corrector's own frame."""
        _, size, shx, shy, beta = parameters.T
        zeta = np.exp(-1j * beta) / (1.0 + size)
        along_u = np.exp(-zeta[:, None] * (self.u - (shx + 1j * shy)[:, None])).astype(np.complex64)
        along_v = np.exp(-1j * zeta[:, None] * self.v).astype(np.complex64)
        return along_v[:, :, None] * along_u[:, None, :], zeta

    # -- what is seen

    def images(self, parameters: np.ndarray) -> np.ndarray:
        """Mean pictures.

        Parameters
        ----------
        parameters : ndarray, shape (n, 5)
            In the order of `PARAMETERS`.

        Returns
        -------
        ndarray, shape (n, y, x), float32
            Fraction of the electrons that entered, per pixel; orbital angular momentum runs along x, radial momentum along y.
        """
        parameters = np.atleast_2d(np.asarray(parameters, dtype=float))
        pictures = np.empty((len(parameters), self.optics.pixels, self.optics.pixels), dtype=np.float32)
        for k, one in enumerate(parameters):
            field = self._behind_corrector(one[None])[0]
            camera = self._on_camera(field)
            intensity = (camera.real**2 + camera.imag**2).sum(axis=0) * self.optics.pixel_hbar**2
            pictures[k] = self._blur @ intensity @ self._blur
        return np.maximum(pictures, 0.0)

    def image_and_slopes(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One mean picture, shape (y, x), and its analytic derivatives by the five parameters, shape (5, y, x)."""
        one = np.asarray(parameters, dtype=float).reshape(1, 5)
        o = self.optics
        field, by_df = (part[0] for part in self._field(one[:, 0]))
        turned, zeta = (part[0] for part in self._corrector(one))
        phase = _unit(turned.real * np.float32(-o.strength * o.b))
        z = np.complex64(zeta)
        w = (self.u[None, :] - one[0, 2] + 1j * (self.v[:, None] - one[0, 3])).astype(np.complex64)
        turned *= np.complex64(-o.strength * o.b) * z
        tilted = turned * w
        by_phase = (tilted.real / np.float32(1.0 + one[0, 1]), turned.real, -turned.imag, -tilted.imag)
        field = field * phase
        behind = np.stack((field, by_df * phase, *(slope * field for slope in by_phase)))
        behind[2:] *= np.complex64(1j)
        camera = self._on_camera(behind)
        area = np.float32(o.pixel_hbar**2)
        intensity = (camera[0].real ** 2 + camera[0].imag ** 2).sum(axis=0) * area
        changes = 2 * area * (camera[0].real * camera[1:].real + camera[0].imag * camera[1:].imag).sum(axis=1)
        return np.maximum(self._blur @ intensity @ self._blur, 0.0), self._blur @ changes @ self._blur

    def spectrum(self, parameters: np.ndarray, hbar: np.ndarray) -> np.ndarray:
        """The spectrum of orbital angular momentum per unit of hbar, all radial momenta together, source included.

        Parameters
        ----------
        parameters : ndarray, shape (5,)
        hbar : ndarray, shape (n,)
            Evenly spaced.
        """
        field = self._behind_corrector(np.asarray(parameters, dtype=float).reshape(1, 5))[0]
        across = self._spectrum_kernel(float(hbar[0]), float(hbar[-1]), len(hbar)) @ field  # (components, n, u)
        spectrum = np.sum(across.real**2 + across.imag**2, axis=(0, 2)) * (self.u[1] - self.u[0])
        return np.asarray(_gaussian_blur(spectrum, hbar[1] - hbar[0], self.optics.source_hbar))

    @functools.lru_cache(maxsize=4)  # noqa: B019  (sorters are few and live as long as their programs)
    def _spectrum_kernel(self, first: float, last: float, count: int) -> np.ndarray:
        return _kernel(np.linspace(first, last, count), self.v)

    def transmitted(self, parameters: np.ndarray) -> float:
        """Fraction of the electrons that reaches the plane of the camera, anywhere."""
        field = self._behind_corrector(np.asarray(parameters, dtype=float).reshape(1, 5))[0]
        return float(np.sum(np.abs(field) ** 2) * (self.u[1] - self.u[0]) * (self.v[1] - self.v[0]))

    def _behind_corrector(self, parameters: np.ndarray) -> np.ndarray:
        turned, _ = self._corrector(parameters)
        phase = _unit(turned.real * np.float32(-self.optics.strength * self.optics.b))
        return np.asarray(self._field_only(parameters[:, 0]) * phase[:, None])

    def _on_camera(self, field: np.ndarray) -> np.ndarray:
        """Amplitude at the pixels, shape ``(components, p, t)`` from ``(components, v, u)``."""
        return np.asarray(self._to_p @ (field.swapaxes(-1, -2) @ self._to_t))


def frames(images: np.ndarray, electrons: float | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counted pictures: Poisson noise for `electrons` that enter, shape as `images`, float32."""
    electrons = np.asarray(electrons, dtype=float)
    mean = images * electrons.reshape(electrons.shape + (1,) * (images.ndim - electrons.ndim))
    return np.asarray(rng.poisson(mean), dtype=np.float32)


def resolution_hbar(hbar: np.ndarray, spectrum: np.ndarray) -> float:
    """Full width at half maximum of the whole spectrum: between the outermost places where it falls below half its peak."""
    above = np.flatnonzero(spectrum >= 0.5 * spectrum.max())
    first, last = above[0], above[-1]

    def crossing(inner: int, outer: int) -> float:
        if not 0 <= outer < len(spectrum):
            return float(hbar[inner])
        share = (spectrum[inner] - 0.5 * spectrum.max()) / (spectrum[inner] - spectrum[outer])
        return float(hbar[inner] + share * (hbar[outer] - hbar[inner]))

    return crossing(last, last + 1) - crossing(first, first - 1)


def power_in_bin(hbar: np.ndarray, spectrum: np.ndarray, centre: float = 0.0) -> float:
    """Power within half an hbar of `centre`, in the units of `spectrum` times hbar."""
    cumulative = np.concatenate(([0.0], np.cumsum(0.5 * (spectrum[1:] + spectrum[:-1]) * np.diff(hbar))))
    low, high = np.interp((centre - 0.5, centre + 0.5), hbar, cumulative)
    return float(high - low)


def with_camera(optics: SorterOptics, pixels: int, pixel_hbar: float, **changes: Any) -> SorterOptics:
    """The same sorter before another camera."""
    return replace(optics, pixels=pixels, pixel_hbar=pixel_hbar, **changes)


def _unit(angle: np.ndarray) -> np.ndarray:
    """``exp(i angle)``; sine and cosine in single precision are several times as fast as the complex exponential."""
    phase = np.empty(angle.shape, dtype=np.complex64)
    np.cos(angle, out=phase.real)
    np.sin(angle, out=phase.imag)
    return phase


def _centres(reach: float, count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) * (2 * reach / count) - reach


def _kernel(momentum: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Unitary transform to evenly spaced momenta, shape (momentum, position), complex64."""
    step = position[1] - position[0]
    return np.asarray(np.exp(-1j * np.outer(momentum, position)) * (step / np.sqrt(2 * np.pi)), dtype=np.complex64)


def _blur_matrix(pixels: int, pixel_hbar: float, source_hbar: float) -> np.ndarray:
    """Source and square pixel as a symmetric matrix, from their transfer functions up to the sampling limit."""
    frequencies = _centres(0.5 / pixel_hbar, 4096)
    transfer = np.exp(-2 * (np.pi * frequencies * source_hbar) ** 2) * np.sinc(frequencies * pixel_hbar)
    lags = np.arange(pixels) * pixel_hbar
    kernel = np.mean(transfer * np.cos(2 * np.pi * np.outer(lags, frequencies)), axis=1)
    index = np.arange(pixels)
    return np.asarray(kernel[np.abs(index[:, None] - index[None])])


def _gaussian_blur(values: np.ndarray, step: float, sigma: float) -> np.ndarray:
    if sigma <= 0:
        return values
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(gaussian_filter1d(values, sigma / step, mode="constant"))


def misalignment(values: Sequence[float] | dict[str, float]) -> np.ndarray:
    """The five parameters as an array, shape (5,), from a sequence or from a mapping by name (what is missing is 0)."""
    if isinstance(values, dict):
        unknown = set(values) - set(PARAMETERS)
        if unknown:
            raise ValueError(f"a sorter has no {', '.join(sorted(unknown))}; it has {', '.join(PARAMETERS)}")
        return np.array([float(values.get(name, 0.0)) for name in PARAMETERS])
    return np.asarray(values, dtype=float).reshape(5)
