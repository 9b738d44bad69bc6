"""Refinement of the aberrations on the likelihood of all local spectra at once (Whittle), by Fisher scoring.

Each bin I of a periodogram is exponential about its expected value S (see `physics.ronchigram_spectrum`), so that minus the
log-likelihood is the sum of ln S + I / S. S depends on the aberrations through the phase of the rings, gamma = pi lambda q.H.q,
whose derivative with respect to a coefficient is -pi lambda q.h.q with h the curvature of a unit of it. Only this dependence is
used (not that of the envelope, whose form is not known): the equations stay unbiased, as I / S - 1 has no mean at the truth.

Not known and fitted along: the envelope (noise included; its logarithm is a polynomial in q²), the share of the noise in it, which
grows towards high q as a logistic function of q², and the strength of the signal in each window. That leaves the film, the camera
and the noise free.

Neighbouring bins are not independent, nor are windows that overlap: each bin has a weight (see `windows`) with which the Fisher
matrix of the weighted likelihood is the inverse of the covariance. `INFLATION`, for what the model leaves out, was measured on
simulated frames other than those of the bench.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from ..physics.aberrations import ESTIMATED
from ..physics.ronchigram import Geometry
from ..physics.ronchigram_spectrum import inverse_curvature, window_response
from .envelope import ENVELOPE, chebyshev, chebyshev_slope
from .windows import Windows

if TYPE_CHECKING:
    import torch

NUISANCES = ENVELOPE + 2
"""Envelope; logarithm of the noise over the signal at low q, and its slope in q²."""
CLEAR = (-2.0, 3.0)
"""The last two, before anything is known."""
INFLATION = 1.08
AT_REST = 0.4
"""A step of so many standard errors (of all that is fitted, together) is the last one."""
AT_ONCE = 131072
"""Bins of so many windows together."""
SCAN = np.exp(np.arange(-6, 7) * 0.05)
"""Factors of C1 tried around a start value."""
STAGES = (0.22, 0.33, 0.45)
"""Bins up to these fractions of the ring number are used, one stage after the other."""


@dataclass(frozen=True)
class Refined:
    """What a refinement found.

    Attributes
    ----------
    coefficients : ndarray, shape (8,)
        In the order of `ESTIMATED` and the units of `aberrations.TERMS`.
    covariance : ndarray, shape (8, 8)
    visibility : float
        Of the rings, 1 where they are as clear as the window allows.
    evidence : float
        How much likelier the frame is with rings than with the best spectrum without, ln per bin.
    misfit : float
        Mean deviance per bin, relative to that of exponential bins (1 is perfect).
    outliers : float
        Fraction of bins that are more than 14 times what is expected (1e-6 of exponential bins are).
    converged : bool
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    visibility: float
    evidence: float
    misfit: float
    outliers: float
    converged: bool


class Likelihood:
    """The spectra of one frame, and how likely coefficients make them.

    Parameters
    ----------
    frame : Tensor, shape (pixels, pixels)
    geometry : Geometry
    window : int
        Width of the windows in pixels; they overlap by half.
    overhang : float
        How far they reach over the frame's edge, in windows.
    """

    def __init__(self, frame: torch.Tensor, geometry: Geometry, window: int, overhang: float = 0.0) -> None:
        import torch

        self.windows = Windows(geometry, window, overhang)
        n = window
        power = self.windows.periodograms(frame)
        jy = torch.fft.fftfreq(n, d=1 / n)
        jx = torch.arange(n // 2 + 1)
        y, x = torch.meshgrid(jy, jx.float(), indexing="ij")
        radius = (y**2 + x**2).sqrt()
        # one of each pair of opposite bins; not the two lowest, where uneven illumination lies, nor the edge of the band
        use = (radius > 1.9) & (radius < n / 2 - 0.5) & ((x > 0) | (y > 0))
        order = torch.argsort(radius[use])
        self.radius = radius[use][order]
        self.bins = torch.stack([y[use], x[use]], dim=-1)[order]
        self.power = power.flatten(1)[:, use.flatten()][:, order].clamp(min=1e-12).contiguous()
        basis, slopes, bends = self.windows.curvature_basis()
        self.basis = torch.as_tensor(basis, dtype=torch.float32)  # (8, places, 3)
        self.slopes = torch.as_tensor(slopes, dtype=torch.float32)  # (8, places, 3, 2)
        self.bends = bends
        self.width = self.windows.width_rad
        self.wavelength = geometry.wavelength_nm

    def rings(self, coefficients: np.ndarray) -> float:
        """Ring number at the centre of the frame."""
        return float(abs(coefficients[0])) * self.width**2 / self.wavelength

    def reach(self, coefficients: np.ndarray, fraction: float) -> int:
        """How many of the bins, sorted by radius, lie within `fraction` of the ring number."""
        import torch

        limit = max(6.0, fraction * self.rings(coefficients))
        return int(torch.searchsorted(self.radius, limit))

    def start_nuisances(self, count: int) -> np.ndarray:
        """Envelope, visibility and noise before anything is fitted."""
        import torch

        shells = self.power[:, :count].mean(dim=0).chunk(24)
        mean = np.array([float(piece.mean()) for piece in shells])
        u = torch.stack([(piece**2).mean() for piece in self.radius[:count].chunk(len(shells))])
        table = chebyshev(u / float(self.radius[count - 1]) ** 2).double().numpy().T
        held = np.concatenate([table, np.diag([0.0, *[0.1] * 3, *[3.0] * (ENVELOPE - 4)])])
        envelope = np.linalg.lstsq(held, np.concatenate([np.log(mean), np.zeros(ENVELOPE)]), rcond=None)[0]
        return np.array([*envelope, *CLEAR])

    def nuisance_prior(self, rings: float) -> tuple[np.ndarray, np.ndarray]:
        """Means and precisions; where there are few rings in the bins in use, the envelope may not follow them."""
        free = _free_terms(rings)
        held = [0.0, *[0.1] * (free - 1), *[1e9] * (ENVELOPE - free)]
        return np.array([*[0.0] * ENVELOPE, *CLEAR]), np.array([*held, 1.0, 0.25])

    def parts(self, coefficients: np.ndarray, nuisances: np.ndarray, count: int) -> _Parts:
        """Expected spectra and what their derivatives need, for the first `count` bins."""
        import torch

        rows = max(1, AT_ONCE // count)  # few enough windows at a time for what lies between to stay in the cache
        pieces = [
            self._parts(coefficients, nuisances, count, slice(first, first + rows))
            for first in range(0, len(self.power), rows)
        ]
        if len(pieces) == 1:
            return pieces[0]
        names = [field.name for field in fields(_Parts) if field.name != "rings"]
        joined = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in names}
        return _Parts(**joined, rings=pieces[0].rings)

    def _parts(self, coefficients: np.ndarray, nuisances: np.ndarray, count: int, places: slice) -> _Parts:
        """`parts` of some of the windows."""
        import torch

        basis, power = self.basis[:, places], self.power[places, :count]
        curvature = torch.tensordot(torch.as_tensor(coefficients, dtype=torch.float32), basis, dims=1)
        inverse, _ = inverse_curvature(curvature)
        s = self.bins[:count] / self.width
        sy, sx = s[:, 0], s[:, 1]
        qy = inverse[:, 0:1] * sy + inverse[:, 1:2] * sx
        qx = inverse[:, 1:2] * sy + inverse[:, 2:3] * sx
        q2 = qy * qy + qx * qx
        gamma2 = (2 * math.pi * self.wavelength) * (qy * sy + qx * sx)
        scale = float(coefficients[0]) * self.width / float(self.radius[count - 1])
        u = q2 * scale**2
        rings = float(self.radius[count - 1]) ** 2 / max(self.rings(coefficients), 1.0)
        envelope = chebyshev(u, _free_terms(rings))
        terms = torch.as_tensor(nuisances[: len(envelope)], dtype=torch.float32)
        log_envelope = torch.tensordot(terms, envelope, dims=1).clamp(-30.0, 10.0)
        # rings are seen as far as there is more than noise
        hidden = torch.sigmoid(nuisances[ENVELOPE] + nuisances[ENVELOPE + 1] * u)
        rise = chebyshev_slope(u, nuisances[: len(envelope)]) - float(nuisances[-1]) * hidden
        rise = rise.clamp(-6.0, 2.0) * (2 * scale**2 / (float(coefficients[0]) * self.width))
        lag = 2 * self.wavelength / self.width
        along_y, along_x = (self.windows.along(axis, lag * q, places) for axis, q in enumerate((qy, qx)))
        cosine, turned = window_response(
            inverse * (self.wavelength / self.width**2),
            along_y.autocorrelation,
            along_x.autocorrelation,
            fall=(rise * qy, rise * qx),
        )
        # the curvature changes over a window, and with it the phase of the rings
        unit = 2 * math.pi * self.wavelength
        yy, xx, yx = qy * qy, qx * qx, qy * qx
        slopes = torch.tensordot(
            torch.as_tensor(coefficients, dtype=torch.float32), unit * self.slopes[:, places], dims=1
        )[..., None]
        along = [yy * slopes[:, 0, k] + yx * (2 * slopes[:, 1, k]) + xx * slopes[:, 2, k] for k in (0, 1)]
        smeared = (along[0] ** 2).mul_((1 - lag * qy.abs()).clamp_(min=0))
        smeared += (along[1] ** 2).mul_((1 - lag * qx.abs()).clamp_(min=0))
        smeared = smeared.mul_(-0.5).exp_()
        if self.windows.overhang:
            gamma2 -= along[0] * along_y.shift + along[1] * along_x.shift
            # and so does its change: averaged over where the rings are seen, and between two sidebands d = lambda q from there
            (a, _, b), (_, c, _), (d, _, e) = unit * np.tensordot(coefficients, self.bends, axes=1)
            far, ny, nx = self.wavelength**2 / 12, along_y.narrowing / 2, along_x.narrowing / 2
            dy, dx = ny + (far / self.width**2) * yy, nx + (far / self.width**2) * xx
            gamma2 -= yy * (a * dy + b * dx) + xx * (d * dy + e * dx) + (4 * c * far / self.width**2) * yx**2
        cosine, turned = cosine * smeared, turned * smeared
        c, s = torch.cos(gamma2), torch.sin(gamma2)
        fringe = (1 - hidden) * (cosine * c - turned * s)
        falling = (1 - hidden) * (cosine * s + turned * c)
        modulated = (1 - fringe).clamp(min=0.01)
        expected = log_envelope.exp() * modulated
        # thickness and illumination may differ from window to window
        weight = along_y.weight * along_x.weight
        strength = (weight * power / expected).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
        expected = expected * strength
        return _Parts(yy, yx, xx, u, hidden, modulated, fringe, falling, expected, weight, rings)

    def deviance(self, parts: _Parts) -> float:
        """Sum of ln S + I / S."""
        count = parts.expected.shape[1]
        return float((parts.expected.log() + self.power[:, :count] / parts.expected).double().sum())

    def scores(self, parts: _Parts, nuisances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient of the weighted log-likelihood and Fisher matrix, (18,) and (18, 18): coefficients, then nuisances."""
        import torch

        count = parts.expected.shape[1]
        # d ln S / d(Hyy, Hyx, Hxx): gamma falls by pi lambda (qy², 2 qy qx, qx²) per nm
        slope = parts.falling / parts.modulated * (-2 * math.pi * self.wavelength)
        free = _free_terms(parts.rings)
        local = torch.empty((len(slope), 5 + free, count))  # (places, 3 + terms + 2, bins)
        for k, q in enumerate((parts.yy, 2 * parts.yx, parts.xx)):
            torch.mul(slope, q, out=local[:, k])
        chebyshev(parts.u, free, out=local[:, 3 : 3 + free].transpose(0, 1))
        fading = parts.fringe * parts.hidden / parts.modulated
        local[:, 3 + free] = fading
        torch.mul(fading, parts.u, out=local[:, 4 + free])
        share = parts.weight.sqrt()
        local *= share[:, None]
        residual = (self.power[:, :count] / parts.expected).sub_(1).mul_(share)
        fisher = torch.bmm(local, local.transpose(1, 2)).double().numpy()
        gradient = torch.bmm(local, residual[..., None])[..., 0].double().numpy()
        basis = self.basis.double().numpy().transpose(1, 0, 2)  # (places, 8, 3)
        n = len(ESTIMATED)
        size = n + NUISANCES
        fitted = n + np.array([*range(free), ENVELOPE, ENVELOPE + 1])
        across = basis @ fisher[:, :3]  # (places, 8, 3 + terms + 2)
        total, slope_of_all = np.zeros((size, size)), np.zeros(size)
        total[:n, :n] = np.tensordot(across[..., :3], basis, axes=([0, 2], [0, 2]))
        total[:n, fitted] = across[..., 3:].sum(axis=0)
        total[fitted, :n] = total[:n, fitted].T
        total[np.ix_(fitted, fitted)] = fisher[:, 3:, 3:].sum(axis=0)
        slope_of_all[:n] = np.tensordot(gradient[:, :3], basis, axes=([0, 1], [0, 2]))
        slope_of_all[fitted] = gradient[:, 3:].sum(axis=0)
        means, precisions = self.nuisance_prior(parts.rings)
        slope_of_all[n:] += precisions * (means - nuisances)
        total[range(n, size), range(n, size)] += precisions
        return slope_of_all, total

    def phase_change(self, parts: _Parts, step: np.ndarray) -> float:
        """Root mean square change of the rings' phase gamma by a step of the coefficients, over places and bins."""
        import torch

        h = torch.tensordot(torch.as_tensor(step, dtype=torch.float32), self.basis, dims=1)
        change = h[:, 0:1] * parts.yy + 2 * h[:, 1:2] * parts.yx + h[:, 2:3] * parts.xx
        return float(math.pi * self.wavelength * (change**2).mean().sqrt())


def _free_terms(rings: float) -> int:
    """Terms of the envelope that are fitted."""
    return int(np.clip(rings / 2, 4, ENVELOPE))


@dataclass
class _Parts:
    yy: torch.Tensor  # qy², qy qx, qx²
    yx: torch.Tensor
    xx: torch.Tensor
    u: torch.Tensor  # q², 1 at the outermost bin
    hidden: torch.Tensor  # share of the noise in the envelope
    modulated: torch.Tensor  # 1 - fringe
    fringe: torch.Tensor  # cos 2 gamma as the window shows it
    falling: torch.Tensor  # minus its derivative with respect to 2 gamma
    expected: torch.Tensor
    weight: torch.Tensor
    rings: float  # how many, in the middle of the frame, the bins in use show


def refine(
    likelihood: Likelihood,
    start: np.ndarray,
    *,
    scan: bool = True,
    stages: tuple[float, ...] = STAGES,
    steps: int = 8,
) -> Refined:
    """The coefficients that make the frame's spectra likeliest, near a start.

    Parameters
    ----------
    likelihood : Likelihood
    start : ndarray, shape (8,)
    scan : bool
        Look for a better C1 around the start before anything else.
    stages : tuple of float
        See `STAGES`.
    steps : int
        At most so many in the last stage, half as many in those before.
    """
    values = np.array(start, dtype=float)
    if scan:
        values = _best_scaled(likelihood, values, stages[0])
    converged = False
    nuisances = np.zeros(NUISANCES)
    for stage, fraction in enumerate(stages):
        last = stage + 1 == len(stages)
        count = likelihood.reach(values, fraction)
        nuisances = likelihood.start_nuisances(count)
        for _ in range(steps if last else steps // 2):
            values, nuisances, moved, in_sigmas = _one_step(likelihood, values, nuisances, count)
            if moved < 0.1 and (not last or in_sigmas < AT_REST):
                converged = last
                break
    return _summary(likelihood, values, nuisances, likelihood.reach(values, stages[-1]), converged)


def _best_scaled(likelihood: Likelihood, start: np.ndarray, fraction: float) -> np.ndarray:
    """The start with its C1 (and all in proportion) scaled so that the widest rings fit best."""
    count = likelihood.reach(start, fraction)
    nuisances = likelihood.start_nuisances(count)
    best, best_deviance = start, math.inf
    for factor in sorted(SCAN, key=lambda f: abs(math.log(f))):
        trial = start * factor
        fitted = nuisances
        for _ in range(2):
            fitted = _fit_nuisances(likelihood, trial, fitted, count)
        deviance = likelihood.deviance(likelihood.parts(trial, fitted, count))
        if deviance < best_deviance:
            best, best_deviance = trial, deviance
    return best


def _fit_nuisances(likelihood: Likelihood, values: np.ndarray, nuisances: np.ndarray, count: int) -> np.ndarray:
    parts = likelihood.parts(values, nuisances, count)
    gradient, fisher = likelihood.scores(parts, nuisances)
    n = len(ESTIMATED)
    step = np.linalg.solve(fisher[n:, n:] + _hold(fisher[n:, n:]), gradient[n:])
    return _bounded(nuisances, step)


def _hold(fisher: np.ndarray) -> np.ndarray:
    """A little on the diagonal: what the spectra do not tell stays where it is."""
    return np.asarray(np.diag(1e-6 * np.diag(fisher) + 1e-3))


def _bounded(nuisances: np.ndarray, step: np.ndarray) -> np.ndarray:
    new = nuisances + np.clip(step, -1.5, 1.5)
    new[ENVELOPE] = np.clip(new[ENVELOPE], -6.0, 3.0)
    new[ENVELOPE + 1] = np.clip(new[ENVELOPE + 1], -2.0, 20.0)
    return np.asarray(new)


def _one_step(
    likelihood: Likelihood,
    values: np.ndarray,
    nuisances: np.ndarray,
    count: int,
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """One scoring step, no longer than the rings can follow; returns how long it wanted to be: of the rings' phase, in rad, and of
    everything, in standard errors.
    """
    n = len(values)
    parts = likelihood.parts(values, nuisances, count)
    gradient, fisher = likelihood.scores(parts, nuisances)
    scale = 1 / np.sqrt(np.diag(fisher) + 1e-30)
    system = fisher * scale[:, None] * scale[None, :] + 1e-6 * np.eye(len(fisher))
    step = scale * np.linalg.solve(system, scale * gradient)
    moved = likelihood.phase_change(parts, step[:n])
    factor = min(1.0, 0.5 / max(moved, 1e-9))
    new = values + factor * step[:n]
    # the curvature may not change its sign anywhere: half or double the defocus is never one step
    new[0] = np.clip(new[0], 1.5 * values[0], values[0] / 1.5)
    return new, _bounded(nuisances, step[n:]), moved, math.sqrt(max(float(step @ fisher @ step), 0.0))


def _summary(likelihood: Likelihood, values: np.ndarray, nuisances: np.ndarray, count: int, converged: bool) -> Refined:
    import torch

    n = len(values)
    parts = likelihood.parts(values, nuisances, count)
    _, fisher = likelihood.scores(parts, nuisances)
    covariance = np.linalg.pinv(fisher, hermitian=True)[:n, :n] * INFLATION**2
    power = likelihood.power[:, :count]
    ratio = power / parts.expected
    deviance = likelihood.deviance(parts)
    flat = parts.expected / parts.modulated  # the same envelope without rings
    flat = flat * (power / flat).mean(dim=1, keepdim=True)
    without = float((flat.log() + power / flat).double().sum())
    misfit = float((ratio - ratio.log() - 1).double().mean()) / 0.5772156649
    return Refined(
        coefficients=values,
        covariance=covariance,
        visibility=1 / (1 + math.exp(float(nuisances[ENVELOPE]))),
        evidence=(without - deviance) / power.numel(),
        misfit=misfit,
        outliers=float((ratio > 14.0).to(torch.float64).mean()),
        converged=converged,
    )
