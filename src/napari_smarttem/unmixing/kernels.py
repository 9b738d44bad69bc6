"""The few loops that NumPy cannot express without large intermediate arrays, compiled by numba."""
# ruff: noqa: PLR0917 - compiled functions take plain positional arguments

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


@njit(cache=True, nogil=True, fastmath=True)
def face_distances(points, normal, variance, low, step, bins, places, distance, width):  # type: ignore[no-untyped-def]
    """Signed distances of the points ``(k, n)`` from a face in their own noise widths, and the bin each falls in."""
    k, count = points.shape
    for i in range(count):
        distance[i] = points[0, i] * normal[0]
        width[i] = points[0, i] * variance[0]
    for a in range(1, k):
        for i in range(count):
            distance[i] += points[a, i] * normal[a]
            width[i] += points[a, i] * variance[a]
    for i in range(count):
        width[i] = 1.0 / math.sqrt(min(max(width[i], 0.04), 25.0))
        distance[i] *= width[i]
        places[i] = min(max(int((distance[i] - low) / step), 0), bins - 1)


@njit(cache=True, nogil=True)
def place_face(points, normal, noise, table, low, step, even_range, near, turns, enough):  # type: ignore[no-untyped-def]
    """Fisher scoring of one face: see `facets.place`.

    Parameters are the points ``(k, n)``, the unit normal to start from, the noise ``(k, k, k)`` with ``noise[a, b] . t`` the
    covariance of a point t, the densities ``(parts, bins)`` on a grid that begins at `low`, the width of the even part,
    how near a point is on the face, the number of turns, and the shift in noise widths after which it is placed.
    """
    k, count = points.shape
    parts, bins = table.shape
    normal = normal.copy()
    weights = np.full(parts, 1.0 / parts)
    distance = np.empty(count)
    width = np.empty(count)
    places = np.empty(count, np.int64)
    members = np.empty(count, np.int64)
    information = np.eye(k)
    score = np.zeros(bins)
    density = np.zeros(bins)
    on_face = 0.0
    gained = 0.0
    before = np.zeros(k)
    part = 1.0
    for _turn in range(turns):
        variance = np.zeros(k)
        for a in range(k):
            for b in range(k):
                for q in range(k):
                    variance[q] += normal[a] * normal[b] * noise[a, b, q]
        face_distances(points, normal, variance, low, step, bins, places, distance, width)
        histogram = np.zeros(bins)
        held = 0
        for i in range(count):
            at = places[i]
            if at < bins - 1:  # the last bin is everything that is far inside
                histogram[at] += 1.0
                members[held] = i
                held += 1
        inside = float(held)
        if inside < 4.0 * k:
            break
        for p in range(parts):
            weights[p] = max(weights[p], 1e-6)
        weights = mixture_weights(table, histogram, weights, 12)
        gained = 0.0
        for b in range(bins):
            mix = 1e-9
            for p in range(parts):
                mix += weights[p] * table[p, b]
            density[b] = math.log(mix)
            gained += histogram[b] * (density[b] - math.log(table[parts - 1, b] + 1e-9))
        for b in range(1, bins - 2):
            score[b] = (density[b + 1] - density[b - 1]) / (2.0 * step)
        score[0] = score[1]
        gradient = np.zeros(k)
        information = np.zeros((k, k))
        scatter = np.zeros((k, k))
        mean = np.zeros(k)
        on_face = 0.0
        for j in range(held):
            i = members[j]
            slope = score[places[i]] * width[i]
            square = slope * slope
            for a in range(k):
                gradient[a] += slope * points[a, i]
                for b in range(a + 1):
                    information[a, b] += square * points[a, i] * points[b, i]
            if distance[i] < near:
                on_face += 1.0
                for a in range(k):
                    mean[a] += points[a, i] * width[i]
                    for b in range(a + 1):
                        scatter[a, b] += points[a, i] * points[b, i]
        for a in range(k):
            for b in range(a):
                information[b, a] = information[a, b]
                scatter[b, a] = scatter[a, b]
        if on_face > 0:
            for a in range(k):
                gradient[a] -= inside * weights[parts - 1] / even_range * mean[a] / on_face
        # the step lies in the tangent plane: the normal keeps its length
        tangent = np.eye(k)
        for a in range(k):
            for b in range(k):
                tangent[a, b] -= normal[a] * normal[b]
        projected = tangent @ information @ tangent
        trace = np.trace(projected)
        if trace <= 0:
            break
        for a in range(k):
            for b in range(k):
                projected[a, b] += trace * normal[a] * normal[b]
            projected[a, a] += 1e-10 * trace
        move = np.linalg.solve(projected, tangent @ gradient)
        shift = 1.0
        if on_face > 0:
            square = 0.0
            for a in range(k):
                for b in range(k):
                    square += move[a] * scatter[a, b] * move[b]
            shift = math.sqrt(max(square, 0.0) / on_face)
        if shift > 1.0:
            for a in range(k):
                move[a] /= shift
        # a step that leads most of the way back went too far: shorter ones from then on, or two places are visited in turn
        turned = 0.0
        length = 0.0
        for a in range(k):
            turned += move[a] * before[a]
            length += before[a] * before[a]
        part = 0.5 * part if turned < -0.5 * length else min(1.0, 1.5 * part)
        for a in range(k):
            before[a] = move[a]
            move[a] *= part
        length = 0.0
        for a in range(k):
            normal[a] += move[a]
            length += normal[a] * normal[a]
        length = math.sqrt(length)
        for a in range(k):
            normal[a] /= length
        if shift < enough:
            break
    return normal, on_face, gained


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
            out[i, a] = max(out[i, a], 0.0)
    return out


@njit(cache=True, nogil=True, fastmath=True)
def scale_mixture(units, row, spike, weights):  # type: ignore[no-untyped-def]
    """One source of an independent component analysis with a density of zero-mean Gaussians.

    Their variances are `spike` times 1, 6, 36 ...: each exponential is the sixth power of the next, so that one is enough.
    Returns the mean log-likelihood, the new weights, and the weighted covariance ``(k, k)`` of the units.
    """
    count, k = units.shape
    parts = len(weights)
    share = np.empty(parts)
    new = np.zeros(parts)
    covariance = np.zeros((k, k))
    total = 0.0
    constant = np.empty(parts)
    precision = np.empty(parts)
    for p in range(parts):
        precision[p] = 1.0 / (spike * 6.0**p)
        constant[p] = (weights[p] + 1e-12) * math.sqrt(precision[p] / (2.0 * math.pi))
    for i in range(count):
        z = 0.0
        for a in range(k):
            z += units[i, a] * row[a]
        power = math.exp(max(-0.5 * z * z * precision[parts - 1], -690.0))
        mix = 1e-300
        for q in range(parts):
            p = parts - 1 - q
            share[p] = constant[p] * power
            mix += share[p]
            square = power * power
            power = square * square * square
        total += math.log(mix)
        weight = 0.0
        for p in range(parts):
            part = share[p] / mix
            new[p] += part
            weight += part * precision[p]
        for a in range(k):
            for b in range(a + 1):
                covariance[a, b] += weight * units[i, a] * units[i, b]
    for a in range(k):
        for b in range(a + 1):
            covariance[a, b] /= count
            covariance[b, a] = covariance[a, b]
    return total / count, new / count, covariance


@njit(cache=True, nogil=True)
def sparse_rotation(units, noise, start, parts, settle, turns, enough):  # type: ignore[no-untyped-def]
    """Rotation whose sources are sparse: see `lines.fit`; rows, weights, log-likelihood at the start and in the end.

    The update is Ono's iterative projection with the weighted covariance of every source's scale mixture.
    """
    count, k = units.shape
    independent = count / 2.0  # the filter is about two widths wide and a sample was taken every width
    b = start.copy()
    gram = units.T @ units / count
    for c in range(k):
        b[c] /= math.sqrt(max(b[c] @ gram @ b[c], 1e-300))
    weights = np.full((k, parts), 1.0 / parts)
    for c in range(k):  # densities for the start as it is, so that its likelihood can be told
        for _ in range(settle):
            weights[c] = scale_mixture(units, b[c], noise @ b[c] ** 2, weights[c])[1]
    first = -np.inf
    before = -np.inf
    likelihood = -np.inf
    for turn in range(turns):
        likelihood = math.log(max(abs(np.linalg.det(b)), 1e-300))
        moved = b.copy()
        for c in range(k):
            mean, new, covariance = scale_mixture(units, b[c], noise @ b[c] ** 2, weights[c])
            weights[c] = new
            likelihood += mean
            unit = np.zeros(k)
            unit[c] = 1.0
            row = np.linalg.solve(moved @ covariance, unit)
            moved[c] = row / math.sqrt(max(row @ covariance @ row, 1e-300))
        likelihood *= independent
        if turn == 0:
            first = likelihood
        if turn > 2 and abs(likelihood - before) < enough:
            break
        before = likelihood
        b = moved
    return b, weights, first, likelihood
