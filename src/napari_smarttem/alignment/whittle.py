"""Refinement of the aberrations on the likelihood of all local spectra at once (Whittle), by Fisher scoring.

Each bin I of a periodogram is exponential about its expected value S (see `physics.ronchigram_spectrum`), so that minus the
log-likelihood is the sum of ln S + I / S. S depends on the aberrations through the phase of the rings, gamma = pi lambda q.H.q,
whose derivative with respect to a coefficient is -pi lambda q.h.q with h the curvature of a unit of it. Only this dependence is
used (not that of the envelope, whose form is not known): the equations stay unbiased, as I / S - 1 has no mean at the truth.

Not known and fitted along: the envelope (noise included; its logarithm is a polynomial in q²), the share of the noise in it, which
grows towards high q as a logistic function of q², and the strength of the signal in each window. That leaves the film, the camera
and the noise free.

The windows are half periods of a sine: Hann windows leave the rim of the frame almost unread, which is where the higher aberrations
act most (on frames of 256 pixels they cost a fifth of the accuracy). Neighbouring bins are not independent, nor quite are windows
that overlap by half. The covariance therefore is the sandwich F^-1 M F^-1, with M the covariance of the gradient under the known
correlation of the bins; `INFLATION`, for the overlap and for what the model leaves out, was measured on simulated frames other than
those of the bench.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..physics.aberrations import ESTIMATED
from ..physics.ronchigram import Geometry
from ..physics.ronchigram_spectrum import inverse_curvature, sine, sine_slopes, window_response
from .envelope import ENVELOPE, chebyshev, chebyshev_slope
from .spectra import Layout, periodograms

if TYPE_CHECKING:
    import torch

NUISANCES = ENVELOPE + 2
"""Envelope; logarithm of the noise over the signal at low q, and its slope in q²."""
CLEAR = (-2.0, 3.0)
"""The last two, before anything is known."""
INFLATION = 1.2
SINE_SIGMA = 0.1808
"""Standard width of the square of a sine window, in windows."""
NEIGHBOURS = 1 / 4
"""Correlation of the power of neighbouring bins under a sine window, along one axis; none farther apart."""
AT_REST = 0.3
"""A step of so many standard errors (of all that is fitted, together) is the last one."""
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
    """

    def __init__(self, frame: torch.Tensor, geometry: Geometry, window: int) -> None:
        import torch

        side = max(3, round(2 * geometry.pixels / window) - 1)
        self.layout = Layout(geometry, window, side, SINE_SIGMA)
        n = window
        power = periodograms(frame[None], self.layout, sine)[0]
        jy = torch.fft.fftfreq(n, d=1 / n)
        jx = torch.arange(n // 2 + 1)
        y, x = torch.meshgrid(jy, jx.float(), indexing="ij")
        radius = (y**2 + x**2).sqrt()
        # one of each pair of opposite bins; not the two lowest, where uneven illumination lies, nor the edge of the band
        use = (radius > 1.9) & (radius < n / 2 - 0.5) & ((x > 0) | (y > 0))
        order = torch.argsort(radius[use])
        self.radius = radius[use][order]
        self.places_of_bins = torch.nonzero(use.flatten())[:, 0][order]
        self.bins = torch.stack([y[use], x[use]], dim=-1)[order]
        self.power = power.flatten(1)[:, use.flatten()][:, order].clamp(min=1e-12).contiguous()
        self.basis = torch.as_tensor(self.layout.mean_curvature_basis(), dtype=torch.float32)  # (8, places, 3)
        self.slopes = torch.as_tensor(self.layout.curvature_slopes(), dtype=torch.float32)  # (8, places, 3, 2)
        self.width = self.layout.width_rad
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
        table = chebyshev(u / float(self.radius[count - 1]) ** 2).double().numpy()
        held = np.concatenate([table, np.diag([0.0, *[0.1] * 3, *[3.0] * (ENVELOPE - 4)])])
        envelope = np.linalg.lstsq(held, np.concatenate([np.log(mean), np.zeros(ENVELOPE)]), rcond=None)[0]
        return np.array([*envelope, *CLEAR])

    def nuisance_prior(self, rings: float) -> tuple[np.ndarray, np.ndarray]:
        """Means and precisions; where there are few rings in the bins in use, the envelope may not follow them."""
        free = int(np.clip(rings / 2, 4, ENVELOPE))
        held = [0.0, *[0.1] * (free - 1), *[1e9] * (ENVELOPE - free)]
        return np.array([*[0.0] * ENVELOPE, *CLEAR]), np.array([*held, 1.0, 0.25])

    def parts(self, coefficients: np.ndarray, nuisances: np.ndarray, count: int) -> _Parts:
        """Expected spectra and what their derivatives need, for the first `count` bins."""
        import torch

        curvature = torch.tensordot(torch.as_tensor(coefficients, dtype=torch.float32), self.basis, dims=1)
        inverse, _ = inverse_curvature(curvature)
        s = self.bins[:count] / self.width
        sy, sx = s[:, 0], s[:, 1]
        qy = inverse[:, 0:1] * sy + inverse[:, 1:2] * sx
        qx = inverse[:, 1:2] * sy + inverse[:, 2:3] * sx
        q2 = qy * qy + qx * qx
        gamma2 = (2 * math.pi * self.wavelength) * (qy * sy + qx * sx)
        scale = float(coefficients[0]) * self.width / float(self.radius[count - 1])
        u = q2 * scale**2
        weight = torch.as_tensor(nuisances[:ENVELOPE], dtype=torch.float32)
        envelope = chebyshev(u)
        log_envelope = (envelope @ weight).clamp(-30.0, 10.0)
        # rings are seen as far as there is more than noise
        hidden = torch.sigmoid(nuisances[ENVELOPE] + nuisances[ENVELOPE + 1] * u)
        rise = chebyshev_slope(u, nuisances[:ENVELOPE]) - float(nuisances[-1]) * hidden
        rise = rise.clamp(-6.0, 2.0) * (2 * scale**2 / (float(coefficients[0]) * self.width))
        cosine, turned = window_response(
            inverse, qy, qx, width_rad=self.width, wavelength_nm=self.wavelength, fall=(rise * qy, rise * qx),
            slopes=sine_slopes,
        )  # fmt: skip
        # the curvature changes over a window, and with it the phase of the rings
        slopes = torch.tensordot(torch.as_tensor(coefficients, dtype=torch.float32), self.slopes, dims=1)
        qq = torch.stack([qy * qy, 2 * qy * qx, qx * qx], dim=-1)
        smear = ((2 * math.pi * self.wavelength) * (qq @ slopes)) ** 2
        lag = 2 * self.wavelength / self.width
        narrower = torch.stack([1 - lag * qy.abs(), 1 - lag * qx.abs()], dim=-1).clamp(min=0)
        smeared = torch.exp(-0.5 * (smear * narrower).sum(dim=-1))
        cosine, turned = cosine * smeared, turned * smeared
        c, s = torch.cos(gamma2), torch.sin(gamma2)
        fringe = (1 - hidden) * (cosine * c - turned * s)
        falling = (1 - hidden) * (cosine * s + turned * c)
        modulated = (1 - fringe).clamp(min=0.01)
        expected = log_envelope.exp() * modulated
        # thickness and illumination may differ from window to window
        expected = expected * (self.power[:, :count] / expected).mean(dim=1, keepdim=True)
        seen = float(self.radius[count - 1]) ** 2 / max(self.rings(coefficients), 1.0)
        return _Parts(qy, qx, u, envelope, hidden, modulated, fringe, falling, expected, seen)

    def deviance(self, parts: _Parts) -> float:
        """Sum of ln S + I / S."""
        count = parts.expected.shape[1]
        return float((parts.expected.log() + self.power[:, :count] / parts.expected).double().sum())

    def scores(self, parts: _Parts, nuisances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient of the log-likelihood and Fisher matrix, (14,) and (14, 14): coefficients, then nuisances."""
        import torch

        count = parts.expected.shape[1]
        # d ln S / d(Hyy, Hyx, Hxx): gamma falls by pi lambda (qy², 2 qy qx, qx²) per nm
        slope = parts.falling / parts.modulated * (-2 * math.pi * self.wavelength)
        columns = [slope * parts.qy**2, 2 * slope * parts.qy * parts.qx, slope * parts.qx**2]
        columns += [parts.envelope[..., k] for k in range(ENVELOPE)]
        fading = parts.fringe * parts.hidden / parts.modulated
        columns += [fading, fading * parts.u]
        local = torch.stack(columns, dim=1)  # (places, 9, bins)
        residual = self.power[:, :count] / parts.expected - 1
        fisher = torch.bmm(local, local.transpose(1, 2)).double().numpy()  # (places, 9, 9)
        gradient = torch.bmm(local, residual[..., None])[..., 0].double().numpy()
        basis = self.basis.double().numpy()  # (8, places, 3)
        size = len(ESTIMATED) + NUISANCES
        spread = np.zeros((fisher.shape[0], size, 3 + NUISANCES))
        spread[:, : len(ESTIMATED), :3] = basis.transpose(1, 0, 2)
        spread[:, len(ESTIMATED) :, 3:] = np.eye(NUISANCES)
        total = np.einsum("pai,pij,pbj->ab", spread, fisher, spread, optimize=True)
        slope_of_all = np.einsum("pai,pi->a", spread, gradient)
        means, precisions = self.nuisance_prior(parts.rings)
        slope_of_all[len(ESTIMATED) :] += precisions * (means - nuisances)
        total[range(len(ESTIMATED), size), range(len(ESTIMATED), size)] += precisions
        return slope_of_all, total

    def gradient_covariance(self, parts: _Parts) -> np.ndarray:
        """Covariance of the gradient with respect to the coefficients, (8, 8), given how bins are correlated."""
        import torch

        count, n = parts.expected.shape[1], self.layout.window
        slope = parts.falling / parts.modulated * (-2 * math.pi * self.wavelength)
        local = torch.stack([slope * parts.qy**2, 2 * slope * parts.qy * parts.qx, slope * parts.qx**2], dim=1)
        grid = torch.zeros((len(local), 3, n * (n // 2 + 1)))
        grid[:, :, self.places_of_bins[:count]] = local
        grid = torch.fft.fftshift(grid.reshape(-1, 1, n, n // 2 + 1), dim=-2)
        line = torch.tensor([NEIGHBOURS, 1.0, NEIGHBOURS])
        kernel = (line[:, None] * line[None, :])[None, None]
        spread = torch.nn.functional.conv2d(grid, kernel, padding=1)
        spread = torch.fft.ifftshift(spread, dim=-2).reshape(len(local), 3, -1)[:, :, self.places_of_bins[:count]]
        meat = torch.bmm(local, spread.transpose(1, 2)).double().numpy()
        basis = self.basis.double().numpy()
        return np.asarray(np.einsum("api,pij,bpj->ab", basis, meat, basis, optimize=True))

    def phase_change(self, parts: _Parts, step: np.ndarray) -> float:
        """Root mean square change of the rings' phase gamma by a step of the coefficients, over places and bins."""
        import torch

        h = torch.tensordot(torch.as_tensor(step, dtype=torch.float32), self.basis, dims=1)
        change = h[:, 0:1] * parts.qy**2 + 2 * h[:, 1:2] * parts.qy * parts.qx + h[:, 2:3] * parts.qx**2
        return float(math.pi * self.wavelength * (change**2).mean().sqrt())


@dataclass
class _Parts:
    qy: torch.Tensor
    qx: torch.Tensor
    u: torch.Tensor  # q², 1 at the outermost bin
    envelope: torch.Tensor
    hidden: torch.Tensor  # share of the noise in the envelope
    modulated: torch.Tensor  # 1 - fringe
    fringe: torch.Tensor  # cos 2 gamma as the window shows it
    falling: torch.Tensor  # minus its derivative with respect to 2 gamma
    expected: torch.Tensor
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
    inverse = np.linalg.pinv(fisher, hermitian=True)[:n, :n]
    covariance = inverse @ likelihood.gradient_covariance(parts) @ inverse * INFLATION**2
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
