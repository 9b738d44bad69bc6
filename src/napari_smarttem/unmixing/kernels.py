"""The few loops that NumPy cannot express without large intermediate arrays, compiled by numba."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, fastmath=True, nogil=True)
def block_sums(block, weight):  # type: ignore[no-untyped-def]
    """Per spectrum the sum of weighted squares."""
    rows, channels = block.shape
    squares = np.empty(rows, np.float64)
    for i in range(rows):
        total = np.float32(0.0)
        for j in range(channels):
            total += block[i, j] * block[i, j] * weight[j]
        squares[i] = total
    return (squares,)


@njit(cache=True, nogil=True)
def facet_sums(points, normal, sigma, atom, density, near):  # type: ignore[no-untyped-def]
    """Expectation step of one facet: see `facets.py`.

    Returns the log-likelihood ratio against no atom, the mass of the atom, of the edge, the mean square on the facet,
    the gradient ``(k,)`` and the curvature ``(k, k)`` of the negative log-likelihood with respect to the normal.
    """
    count, k = points.shape
    gradient = np.zeros(k)
    curvature = np.zeros((k, k))
    scatter = np.zeros((k, k))
    mass = 0.0
    edge = 0.0
    square = 0.0
    gain = 0.0
    norm = 1.0 / math.sqrt(2.0 * math.pi)
    root = 1.0 / math.sqrt(2.0)
    for i in range(count):
        d = 0.0
        for a in range(k):
            d += points[i, a] * normal[a]
        d /= sigma
        if d > near:
            edge += 1.0
            continue
        if d < -8.0:
            d_used = -8.0
        else:
            d_used = d
        bell = norm * math.exp(-0.5 * d_used * d_used)
        cumulative = 0.5 * math.erfc(-d_used * root)
        on = atom * bell
        inside = density * cumulative
        total = on + inside + 1e-300
        gamma = on / total
        mass += gamma
        edge += 1.0 - gamma
        square += gamma * d * d
        gain += math.log(total / (density * cumulative + 1e-300))
        ratio = bell / (cumulative + 1e-300)
        pull = gamma * d - (1.0 - gamma) * ratio
        bend = gamma + (1.0 - gamma) * ratio * (ratio + d_used)
        for a in range(k):
            gradient[a] += pull * points[i, a] / sigma
            for b in range(a + 1):
                product = points[i, a] * points[i, b] / (sigma * sigma)
                curvature[a, b] += bend * product
                scatter[a, b] += gamma * product
    for a in range(k):
        for b in range(a):
            curvature[b, a] = curvature[a, b]
            scatter[b, a] = scatter[a, b]
    return gain, mass, edge, square, gradient, curvature, scatter


@njit(cache=True, nogil=True)
def nonnegative_rows(gram, targets, start):  # type: ignore[no-untyped-def]
    """For every row t minimise ``p G p / 2 - t p`` with ``p >= 0`` by an active set, from the unconstrained `start`."""
    count, k = targets.shape
    out = np.empty((count, k))
    free = np.empty(k, np.bool_)
    system = np.empty((k, k))
    right = np.empty(k)
    where = np.empty(k, np.int64)
    for i in range(count):
        fine = True
        for a in range(k):
            out[i, a] = start[i, a]
            if start[i, a] < 0.0:
                fine = False
        if fine:
            continue
        for a in range(k):
            free[a] = start[i, a] > 0.0
        for _ in range(4 * k + 4):
            size = 0
            for a in range(k):
                if free[a]:
                    where[size] = a
                    size += 1
            for r in range(size):
                right[r] = targets[i, where[r]]
                for s in range(size):
                    system[r, s] = gram[where[r], where[s]]
            # Cholesky in place: the system is small and positive definite
            for r in range(size):
                for s in range(r + 1):
                    value = system[r, s]
                    for q in range(s):
                        value -= system[r, q] * system[s, q]
                    if r == s:
                        system[r, r] = math.sqrt(max(value, 1e-30))
                    else:
                        system[r, s] = value / system[s, s]
            for r in range(size):
                value = right[r]
                for q in range(r):
                    value -= system[r, q] * right[q]
                right[r] = value / system[r, r]
            for r in range(size - 1, -1, -1):
                value = right[r]
                for q in range(r + 1, size):
                    value -= system[q, r] * right[q]
                right[r] = value / system[r, r]
            worst = -1
            lowest = 0.0
            for r in range(size):
                if right[r] < lowest:
                    lowest = right[r]
                    worst = where[r]
            if worst >= 0:
                free[worst] = False
                continue
            for a in range(k):
                out[i, a] = 0.0
            for r in range(size):
                out[i, where[r]] = right[r]
            best = -1
            steepest = 1e-9
            for a in range(k):
                if not free[a]:
                    slope = targets[i, a]
                    for r in range(size):
                        slope -= gram[a, where[r]] * right[r]
                    slope /= math.sqrt(gram[a, a])
                    if slope > steepest:
                        steepest = slope
                        best = a
            if best < 0:
                break
            free[best] = True
        # a cycle (numerically equal corners) ends with what was feasible last
        for a in range(k):
            if out[i, a] < 0.0:
                out[i, a] = 0.0
    return out
