"""The order of points: the shortest open path, with a cost for letting the probe settle.

Up to 12 points the path is the best one there is (Held & Karp, J. SIAM 10 (1962) 196); above, nearest neighbour improved by
2-opt and Or-opt moves among near neighbours until none helps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EXACT = 12
NEIGHBOURS = 10

Move = tuple[str, int, int, int]
"""What to do (reverse, moved, turned), the first and last place it is done to, and after which place it goes."""


def path_length(
    places_nm: np.ndarray, order: np.ndarray | None = None, start_nm: tuple[float, float] | None = None
) -> float:
    """Length in nm of the open path through `places_nm` (n, 2) in `order`, from `start_nm` where given."""
    path = np.asarray(places_nm, dtype=float).reshape(-1, 2)
    if order is not None:
        path = path[order]
    if start_nm is not None:
        path = np.concatenate([[start_nm], path])
    return float(np.hypot(*np.diff(path, axis=0).T).sum()) if len(path) > 1 else 0.0


def shortest_path(
    places_nm: np.ndarray, *, start_nm: tuple[float, float] | None = None, settle_nm: float = 0.0
) -> np.ndarray:
    """A permutation of ``range(n)``: a short open path through all points.

    Parameters
    ----------
    places_nm : array, shape (n, 2)
        Points.
    start_nm : (y, x) or None
        Where the probe is; None: the path may begin anywhere.
    settle_nm : float
        Path length that one move is worth because the probe must settle; points on the same place need none, so that they
        stay together.
    """
    places = np.asarray(places_nm, dtype=float).reshape(-1, 2)
    count = len(places)
    if count <= 2 and start_nm is None:
        return np.arange(count)
    if start_nm is not None:
        places = np.concatenate([[start_nm], places])
    order = (
        _exact(places, start_nm is not None, settle_nm)
        if count <= EXACT
        else _improved(places, start_nm is not None, settle_nm)
    )
    if start_nm is not None:
        order = order[1:] - 1
    return order


def _costs(places: np.ndarray, others: np.ndarray, settle_nm: float) -> np.ndarray:
    distance = np.hypot(places[..., 0] - others[..., 0], places[..., 1] - others[..., 1])
    return np.asarray(distance + settle_nm * (distance > 0))


def _exact(places: np.ndarray, fixed_start: bool, settle_nm: float) -> np.ndarray:
    """Held and Karp: best cost of every set of points that ends at each of them."""
    count = len(places)
    cost = _costs(places[:, None], places[None, :], settle_nm)
    best = np.full((1 << count, count), np.inf)
    came = np.zeros((1 << count, count), dtype=np.int8)
    for first in [0] if fixed_start else range(count):
        best[1 << first, first] = 0.0
    for visited in range(1, 1 << count):
        row = best[visited]
        if not np.isfinite(row).any():
            continue
        through = row[:, None] + cost
        before = through.argmin(axis=0)
        value = through[before, np.arange(count)]
        for end in range(count):
            bit = 1 << end
            if not visited & bit and value[end] < best[visited | bit, end]:
                best[visited | bit, end] = value[end]
                came[visited | bit, end] = before[end]
    visited = (1 << count) - 1
    end = int(best[visited].argmin())
    path = [end]
    while len(path) < count:
        end, visited = int(came[visited, end]), visited & ~(1 << end)
        path.append(end)
    return np.array(path[::-1])


def _nearest_neighbour(places: np.ndarray, first: int) -> list[int]:
    """Always on to the nearest point not visited yet."""
    left = places.copy()
    path = [first]
    here = left[first].copy()
    for _ in range(len(places) - 1):
        left[path[-1]] = np.inf
        following = int(((left - here) ** 2).sum(axis=1).argmin())
        path.append(following)
        here = left[following].copy()
    return path


def _improved(places: np.ndarray, fixed_start: bool, settle_nm: float) -> np.ndarray:
    from scipy.spatial import cKDTree

    count = len(places)
    corner = int((places - places.min(axis=0)).sum(axis=1).argmin())
    starts = [0] if fixed_start else list(dict.fromkeys([corner, 0, count // 2] if count <= 300 else [corner]))
    nearest = cKDTree(places).query(places, k=min(NEIGHBOURS + 1, count))[1][:, 1:].tolist()
    best: list[int] = []
    shortest = np.inf
    for first in starts:
        path = _refine(_nearest_neighbour(places, first), places, nearest, fixed_start, settle_nm)
        length = float(_costs(places[path[:-1]], places[path[1:]], settle_nm).sum())
        if length < shortest:
            best, shortest = path, length
    return np.array(best)


def _refine(
    path: list[int], places: np.ndarray, nearest: list[list[int]], fixed_start: bool, settle_nm: float
) -> list[int]:
    """2-opt and Or-opt among near neighbours until nothing gets shorter (each move shortens the path, so it ends)."""
    y, x = places[:, 0].tolist(), places[:, 1].tolist()
    count = len(path)
    position = [0] * count
    for place, point in enumerate(path):
        position[point] = place

    def cost(a: int, b: int) -> float:
        """Of the move from point a to point b; -1 stands for the open end, which costs nothing."""
        if a < 0 or b < 0:
            return 0.0
        distance = float(((y[a] - y[b]) ** 2 + (x[a] - x[b]) ** 2) ** 0.5)
        return distance + settle_nm if distance > 0 else 0.0

    def at(index: int) -> int:
        return path[index] if 0 <= index < count else -1

    def renumber(low: int, high: int) -> None:
        for index in range(low, high + 1):
            position[path[index]] = index

    lowest = 1 if fixed_start else 0
    waiting = list(path)
    queued = [True] * count
    while waiting:
        point = waiting.pop()
        queued[point] = False
        move = _best_move(point, nearest[point], position, at=at, cost=cost, lowest=lowest)
        if move is None:
            continue
        kind, low, high, to = move
        if kind == "reverse":
            path[low : high + 1] = path[low : high + 1][::-1]
            renumber(low, high)
            touched: tuple[int, ...] = (at(low - 1), at(low), at(high), at(high + 1))
        else:
            segment = path[low : high + 1]
            if kind == "turned":
                segment = segment[::-1]
            around = (at(low - 1), at(high + 1), segment[0], segment[-1])
            del path[low : high + 1]
            target = to if to < low else to - len(segment)
            path[target + 1 : target + 1] = segment
            first, last = min(low, target + 1), min(count - 1, max(high, target + len(segment)))
            renumber(first, last)
            begin = position[segment[0]]
            touched = (*around, at(begin - 1), at(begin + len(segment)))
        for other in (*touched, point):
            if other >= 0 and not queued[other]:
                queued[other] = True
                waiting.append(other)
    return path


def _best_move(
    point: int,
    near: list[int],
    position: list[int],
    *,
    at: Callable[[int], int],
    cost: Callable[[int, int], float],
    lowest: int,
) -> Move | None:
    """The move at `point` that shortens the path most, or None: (kind, first, last, after which place)."""
    here = position[point]
    count = len(position)
    best: Move | None = None
    gain = 1e-9
    before, after = at(here - 1), at(here + 1)
    to_after, to_before = cost(point, after), cost(before, point)
    for other in near:
        there = position[other]
        direct = cost(point, other)
        # 2-opt: join point and other, and their successors (or their predecessors).
        if after >= 0 or other >= 0:
            low, high = (here + 1, there) if here < there else (there + 1, here)
            if low >= lowest and high > low:
                saved = cost(at(low - 1), at(low)) + cost(at(high), at(high + 1))
                saved -= cost(at(low - 1), at(high)) + cost(at(low), at(high + 1))
                if saved > gain:
                    best, gain = ("reverse", low, high, -1), saved
            low, high = (here, there - 1) if here < there else (there, here - 1)
            if low >= lowest and high > low:
                saved = cost(at(low - 1), at(low)) + cost(at(high), at(high + 1))
                saved -= cost(at(low - 1), at(high)) + cost(at(low), at(high + 1))
                if saved > gain:
                    best, gain = ("reverse", low, high, -1), saved
        if direct >= to_after and direct >= to_before and best is not None:
            continue
        # Or-opt: carry one, two or three points, beginning or ending here, to beside the other one.
        for length in (1, 2, 3):
            for low in {here, here - length + 1}:
                high = low + length - 1
                if low < lowest or high >= count or low <= there <= high:
                    continue
                first, last = at(low), at(high)
                freed = cost(at(low - 1), first) + cost(last, at(high + 1)) - cost(at(low - 1), at(high + 1))
                for to in (there - 1, there):
                    if to < lowest - 1 or low - 1 <= to <= high:
                        continue
                    left, right = at(to), at(to + 1)
                    opened = freed + cost(left, right)
                    saved = opened - cost(left, first) - cost(last, right)
                    if saved > gain:
                        best, gain = ("moved", low, high, to), saved
                    saved = opened - cost(left, last) - cost(first, right)
                    if saved > gain:
                        best, gain = ("turned", low, high, to), saved
    return best
