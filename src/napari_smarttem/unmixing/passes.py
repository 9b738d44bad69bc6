"""The readings of the data: every block is multiplied from both sides while it is in the cache, here or on dask workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .kernels import block_sums
from .spectra import SpectrumImage, spectrum_image

Report = Callable[[float], None]
AHEAD = 8
"""Tasks handed to a cluster before the first of them is back."""


@dataclass(frozen=True)
class Sums:
    """What the first reading gives.

    Parameters
    ----------
    rows, columns : ndarray
        ``(pixels,)`` and ``(channels,)`` sums.
    products : ndarray
        ``(channels, width)``: ``X^T G^-1 X sketch``, G the row sums (all one without `poisson`).
    lowest : float
        The lowest value.
    """

    rows: np.ndarray
    columns: np.ndarray
    products: np.ndarray
    lowest: float


@dataclass(frozen=True)
class Projection:
    """What a later reading gives.

    Parameters
    ----------
    scores : ndarray
        ``(pixels, width)``, float32: the scaled data times the weight.
    products : ndarray
        ``(channels, width)``: the data, rows scaled, times the scores.
    norms : ndarray
        ``(pixels,)`` weighted sums of squares of the spectra.
    """

    scores: np.ndarray
    products: np.ndarray
    norms: np.ndarray


def sums(
    image: SpectrumImage, sketch: np.ndarray, poisson: bool, offset: float, report: Report, *, client: Any = None
) -> Sums:
    """Read everything once: sums over rows and columns, and the products with a sketch ``(channels, width)``.

    `offset` is added to row sums where they stand for the noise of a row.
    """
    n, (m, width) = image.pixels, sketch.shape
    rows, columns = np.empty(n), np.zeros(m)
    products = np.zeros((width, m))
    lowest = np.inf
    if client is not None and not image.in_memory:
        for first, last, part in _spread(client, image, sums, lambda a, b: (sketch, poisson, offset), report):
            rows[first:last] = part.rows
            columns += part.columns
            products += part.products.T
            lowest = min(lowest, part.lowest)
        return Sums(rows, columns, products.T, lowest)
    weight = np.concatenate([sketch, np.ones((m, 1), np.float32)], axis=1)
    summed = np.zeros((width + 1, m), dtype=np.float32)
    since = last_told = 0
    for start, stop, block in image.blocks():
        part = block @ weight
        total = part[:, -1].copy()
        rows[start:stop] = total
        if poisson:
            noise = total + np.float32(offset)
            part /= np.where(noise > 0, noise, np.inf)[:, None]
        part[:, -1] = 1.0
        summed += part.T @ block
        since += stop - start
        if since > 8192:  # float32 sums of long columns lose digits: they are moved to float64 now and then
            columns += summed[-1]
            products += summed[:-1]
            summed[:] = 0
            since = 0
        lowest = min(lowest, float(block.min()))
        if start - last_told > n // 16:
            last_told = start
            report(start / n)
    columns += summed[-1]
    products += summed[:-1]
    return Sums(rows, columns, products.T, lowest)


def project(
    image: SpectrumImage,
    weight: np.ndarray,
    inverse_g: np.ndarray,
    inverse_h: np.ndarray,
    report: Report,
    *,
    client: Any = None,
) -> Projection:
    """Read everything once more: scores on the columns of `weight`, and the data times the scores.

    Parameters
    ----------
    image : SpectrumImage
    weight : ndarray
        ``(channels, width)``, float32, channels scaled.
    inverse_g : ndarray
        ``(pixels,)``, float32, one over the root of the row scale.
    inverse_h : ndarray
        ``(channels,)``, float32, one over the column scale, for the norms.
    report : callable
        Told the fraction done; raises to stop.
    client : dask.distributed.Client, optional
        Where data that are not in memory are read and multiplied instead of here.
    """
    n, (m, width) = image.pixels, weight.shape
    filled = np.zeros((m, width + 1), dtype=np.float32)  # 24 columns take less time than 23
    filled[:, :-1] = weight
    scores = np.empty((n, width + 1), dtype=np.float32)
    products, norms = np.zeros((width + 1, m)), np.empty(n)
    if client is not None and not image.in_memory:
        rest = _spread(client, image, project, lambda a, b: (weight, inverse_g[a:b], inverse_h), report)
        for first, last, part in rest:
            scores[first:last, :-1], norms[first:last] = part.scores, part.norms
            products[:-1] += part.products.T
        return Projection(scores[:, :-1], products[:-1].T, norms)
    summed = np.zeros((width + 1, m), dtype=np.float32)
    since = last_told = 0
    for first, last, block in image.blocks():
        part = np.matmul(block, filled, out=scores[first:last])
        scale = inverse_g[first:last, None]
        part *= scale
        norms[first:last] = block_sums(block, inverse_h)[0]
        summed += (part * scale).T @ block
        since += last - first
        if since > 8192:
            products += summed
            summed[:] = 0
            since = 0
        if first - last_told > n // 16:
            last_told = first
            report(first / n)
    products += summed
    return Projection(scores[:, :-1], products[:-1].T, norms)


def _spread(
    client: Any,
    image: SpectrumImage,
    work: Callable[..., Any],
    arguments: Callable[[int, int], tuple[Any, ...]],
    report: Report,
) -> Iterator[tuple[int, int, Any]]:
    """Do `work` on some rows of the image after the other on the workers of a cluster; results in order, few ahead.

    `arguments` gives what the work needs besides the data for the pixels from the first to before the last.
    """
    import dask

    columns = image.shape[1]
    pending: list[tuple[int, int, Any]] = []
    pieces = image.pieces()
    piece = next(pieces, None)
    try:
        while pending or piece is not None:
            while piece is not None and len(pending) < AHEAD:
                first, last = piece.first * columns, piece.last * columns
                task = dask.delayed(_task)(piece.load, piece.source, work, image.channels, *arguments(first, last))
                pending.append((first, last, client.compute(task)))
                piece = next(pieces, None)
            first, last, future = pending.pop(0)
            value = future.result()
            report(first / image.pixels)
            yield first, last, value
    finally:
        for _, _, future in pending:
            future.cancel()


def _task(load: Callable[[Any], np.ndarray], source: Any, work: Callable[..., Any], channels: int, *rest: Any) -> Any:
    """On a worker: bring some rows into memory and do the work on them."""
    from threadpoolctl import threadpool_limits

    part = spectrum_image(load(source).reshape(1, -1, channels))
    with threadpool_limits(limits=1):
        return work(part, *rest, _quiet)


def _quiet(fraction: float) -> None:
    """On a worker nobody looks at progress."""
