"""Many small networks at once that learn the shape of a zero-loss peak, each from its own replica of the data.

The network is that of EELSfitter (Roest et al., Ultramicroscopy 222, 2021, 113202): energy loss and the logarithm of the
intensity go in, three hidden layers of 10, 15 and 5 lead to the logarithm of the counts. Two things are added. The energy
goes in as ``asinh(E / w)``, linear near zero and logarithmic far out, and it also goes around the layers, so that what lies
beyond the data continues as a power law. And each replica is held with the force of a prior to weights of its own that were
drawn at random (Pearce et al., AISTATS 2020), so that replicas agree where the data speak and part where they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..nn.registry import require_torch

HIDDEN = (10, 15, 5)
SMALL_GAIN = 1e-3
"""Part of the misfit; when nine replicas in ten gain less in a step, the fit ends."""
FALLING = 1e4
"""Weight of a rise of the logarithm by one where the peak must fall."""


def inputs(energy: np.ndarray, log_intensity: np.ndarray, width_ev: float) -> np.ndarray:
    """What goes in, ``(points, 4)``: ``asinh`` of loss and of gain, the peak's rounding, and the standardised intensity."""
    scaled = np.asarray(energy, dtype=np.float64) / width_ev
    right, left = np.arcsinh(np.maximum(scaled, 0.0)), np.arcsinh(np.maximum(-scaled, 0.0))
    rounding = np.exp(-(scaled**2) / 4.0)
    return np.stack([right, left, rounding, np.broadcast_to(log_intensity, right.shape)], axis=-1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch and the linear algebra use one thread: these matrices are so small that threads only wait for each other."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


class Replicas:
    """`count` networks side by side, fitted by Levenberg and Marquardt's method, each with its own damping.

    Parameters
    ----------
    count : int
    seed : int
        Of all weights.
    slope : (float, float)
        Prior mean of the power of the wings towards loss and gain (positive numbers).
    """

    def __init__(self, count: int, seed: int, slope: tuple[float, float] = (2.5, 2.5)) -> None:
        require_torch()
        import torch

        generator = torch.Generator().manual_seed(seed)
        self._sizes = (4, *HIDDEN, 1)
        spreads = []
        for a, b in zip(self._sizes[:-1], self._sizes[1:], strict=True):
            spreads += [torch.full((a * b,), 1.0 / np.sqrt(a)), torch.full((b,), 0.5)]
        spreads.append(torch.tensor([0.5, 0.5, 1.0, 0.05]))
        self._spread = torch.cat(spreads).double()
        self._prior = self._spread * torch.randn(count, len(self._spread), generator=generator, dtype=torch.float64)
        self._prior[:, -4:] += torch.tensor([-slope[0], -slope[1], 4.0, 0.0])
        self._theta = self._prior.clone()

    def _layers(self, theta: Any) -> tuple[list[Any], list[Any], Any]:
        weights, biases, at = [], [], 0
        for a, b in zip(self._sizes[:-1], self._sizes[1:], strict=True):
            weights.append(theta[:, at : at + a * b].reshape(-1, a, b))
            biases.append(theta[:, None, at + a * b : at + a * b + b])
            at += a * b + b
        return weights, biases, theta[:, at:, None]

    def _forward(self, theta: Any, x: Any) -> tuple[Any, list[Any]]:
        import torch

        weights, biases, around = self._layers(theta)
        activations = [x]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            activations.append(torch.tanh(torch.baddbmm(bias, activations[-1], weight)))
        out = torch.baddbmm(biases[-1], activations[-1], weights[-1]) + torch.bmm(x, around)
        return out[..., 0], activations

    def _slopes(self, theta: Any, activations: list[Any]) -> Any:
        """Derivatives of the answers, ``(replicas, points, weights)``, by back-propagation."""
        import torch

        weights, _, _ = self._layers(theta)
        x = activations[0]
        parts: list[Any] = [x]
        back = torch.ones(*x.shape[:2], 1, dtype=x.dtype)
        for layer in range(len(weights) - 1, -1, -1):
            outer = activations[layer][..., :, None] * back[..., None, :]
            parts = [outer.flatten(2), back, *parts]
            if layer:
                back = torch.bmm(back, weights[layer].transpose(1, 2)) * (1.0 - activations[layer] ** 2)
        return torch.cat(parts, dim=2)

    def fit(
        self,
        points: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        falling: np.ndarray,
        *,
        ceiling: np.ndarray,
        steps: int = 80,
        report: Callable[[float], None] | None = None,
    ) -> np.ndarray:
        """Fit; returns the mean weighted squared misfit of every replica.

        Parameters
        ----------
        points : ndarray
            ``(points, 4)`` as from `inputs`.
        targets, weights : ndarray
            ``(replicas, points)`` logarithms of counts and one over their variances (zero leaves a point out).
        falling : ndarray
            ``(pairs, 2, 4)``: the answer at the second of each pair may not lie above that at the first.
        ceiling : ndarray
            ``(replicas, points)`` weights where the answer may lie below the target, but not above.
        steps : int
            Most steps of the optimiser.
        report : callable, optional
            Told the fraction done at every step; may raise to stop.
        """
        import torch

        count, n = targets.shape
        every = np.concatenate([points, falling.reshape(-1, 4)])
        x = torch.as_tensor(every, dtype=torch.float64)[None].expand(count, -1, -1)
        y, w, c = (torch.as_tensor(v, dtype=torch.float64) for v in (targets, weights, ceiling))

        def judged(theta: Any) -> tuple[Any, Any, Any, list[Any]]:
            out, activations = self._forward(theta, x)
            difference = out[:, :n] - y
            weight = w + c * (difference > 0)
            rise = out[:, n + 1 :: 2] - out[:, n::2]
            force = FALLING * (rise > 0)
            held = (((theta - self._prior) / self._spread) ** 2).sum(dim=1)
            cost = (weight * difference**2).sum(dim=1) + (force * rise**2).sum(dim=1) + held
            rows = torch.cat([weight.sqrt(), force.sqrt()], dim=1)
            return cost, rows, torch.cat([difference, rise], dim=1), activations

        theta = self._theta
        cost, rows, wrong, activations = judged(theta)
        damping = torch.full((count,), 1.0, dtype=torch.float64)
        for step in range(steps):
            if report is not None:
                report(step / steps)
            slopes = self._slopes(theta, activations)
            slopes = torch.cat([slopes[:, :n], slopes[:, n + 1 :: 2] - slopes[:, n::2]], dim=1) * rows[..., None]
            gradient = torch.bmm(slopes.transpose(1, 2), (rows * wrong)[..., None])[..., 0]
            gradient += (theta - self._prior) / self._spread**2
            normal = torch.bmm(slopes.transpose(1, 2), slopes)
            diagonal = normal.diagonal(dim1=1, dim2=2)
            diagonal += 1.0 / self._spread**2
            diagonal += damping[:, None] * diagonal.clone()
            move = torch.cholesky_solve(-gradient[..., None], torch.linalg.cholesky(normal))[..., 0]
            trial = theta + move
            new, new_rows, new_wrong, new_activations = judged(trial)
            better = torch.isfinite(new) & (new < cost)
            gained = torch.where(better, (cost - new) / cost, torch.zeros_like(cost))
            theta = torch.where(better[:, None], trial, theta)
            cost = torch.where(better, new, cost)
            rows = torch.where(better[:, None], new_rows, rows)
            wrong = torch.where(better[:, None], new_wrong, wrong)
            activations = [
                torch.where(better[:, None, None], one, old)
                for one, old in zip(new_activations, activations, strict=True)
            ]
            damping = torch.where(better, damping * 0.2, damping * 4.0).clamp(1e-6, 1e8)
            if step > 10 and float((gained < SMALL_GAIN).double().mean()) > 0.9 and bool(better.any()):
                break
        self._theta = theta
        misfit = (w * wrong[:, :n] ** 2).sum(dim=1) / (w > 0).sum(dim=1).clamp(min=1)
        return np.asarray(misfit.numpy(), dtype=np.float64)

    def predict(self, points: np.ndarray) -> np.ndarray:
        """Logarithms of counts, ``(replicas, points)``."""
        import torch

        x = torch.as_tensor(points, dtype=torch.float64)[None].expand(len(self._theta), -1, -1)
        return np.asarray(self._forward(self._theta, x)[0].numpy())
