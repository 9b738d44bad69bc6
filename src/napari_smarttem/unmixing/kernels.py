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
def face_distances(points, normal, variance, low, step, bins):  # type: ignore[no-untyped-def]
    """Signed distance of every point from a face in noise widths, and their histogram (ends gather what is outside)."""
    count, k = points.shape
    distance = np.empty(count)
    histogram = np.zeros(bins)
    for i in range(count):
        d = 0.0
        v = 0.0
        for a in range(k):
            d += points[i, a] * normal[a]
            v += points[i, a] * variance[a]
        d /= math.sqrt(min(max(v, 0.2), 5.0))
        distance[i] = d
        at = int((d - low) / step)
        histogram[min(max(at, 0), bins - 1)] += 1.0
    return distance, histogram


@njit(cache=True, nogil=True)
def face_step(points, distance, normal, variance, score, low, step):  # type: ignore[no-untyped-def]
    """Gradient of the log-likelihood with respect to the normal, and its Fisher information (outer products)."""
    count, k = points.shape
    bins = len(score)
    gradient = np.zeros(k)
    information = np.zeros((k, k))
    for i in range(count):
        at = int((distance[i] - low) / step)
        if at >= bins - 1:
            continue
        slope = score[max(at, 0)]
        if slope == 0.0:
            continue
        v = 0.0
        for a in range(k):
            v += points[i, a] * variance[a]
        slope /= math.sqrt(min(max(v, 0.2), 5.0))
        for a in range(k):
            gradient[a] += slope * points[i, a]
            for b in range(a + 1):
                information[a, b] += slope * slope * points[i, a] * points[i, b]
    for a in range(k):
        for b in range(a):
            information[b, a] = information[a, b]
    return gradient, information


@njit(cache=True, nogil=True)
def mixture_weights(densities, histogram, weights, turns):  # type: ignore[no-untyped-def]
    """Expectation-maximisation of the weights of fixed densities ``(parts, bins)`` on a histogram."""
    parts, bins = densities.shape
    total = histogram.sum()
    out = weights.copy()
    for _ in range(turns):
        new = np.zeros(parts)
        for b in range(bins):
            if histogram[b] == 0.0:
                continue
            mix = 1e-12
            for p in range(parts):
                mix += out[p] * densities[p, b]
            share = histogram[b] / mix
            for p in range(parts):
                new[p] += out[p] * densities[p, b] * share
        for p in range(parts):
            out[p] = new[p] / total
    return out


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


@njit(cache=True, nogil=True, fastmath=True)
def scale_mixture(units, row, variances, weights):  # type: ignore[no-untyped-def]
    """One source of an independent component analysis with a density of zero-mean Gaussians of given variances.

    Returns the mean log-likelihood, the new weights, and the weighted covariance ``(k, k)`` of the units.
    """
    count, k = units.shape
    parts = len(variances)
    share = np.empty(parts)
    new = np.zeros(parts)
    covariance = np.zeros((k, k))
    total = 0.0
    constant = np.empty(parts)
    for p in range(parts):
        constant[p] = (weights[p] + 1e-12) / math.sqrt(2.0 * math.pi * variances[p])
    for i in range(count):
        z = 0.0
        for a in range(k):
            z += units[i, a] * row[a]
        z *= z
        mix = 1e-300
        for p in range(parts):
            share[p] = constant[p] * math.exp(max(-0.5 * z / variances[p], -690.0))
            mix += share[p]
        total += math.log(mix)
        weight = 0.0
        for p in range(parts):
            part = share[p] / mix
            new[p] += part
            weight += part / variances[p]
        for a in range(k):
            for b in range(a + 1):
                covariance[a, b] += weight * units[i, a] * units[i, b]
    for a in range(k):
        for b in range(a + 1):
            covariance[a, b] /= count
            covariance[b, a] = covariance[a, b]
    return total / count, new / count, covariance
