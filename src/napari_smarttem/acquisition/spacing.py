"""Spread points over an image: the best first, none nearer to another than a smallest distance."""

from __future__ import annotations

import math

import numpy as np

MOST_CANDIDATES = 20_000


def keep_apart(
    places_nm: np.ndarray,
    spacing_nm: float,
    limit: int,
    stretch: np.ndarray | None = None,
    clear_nm: np.ndarray | None = None,
) -> np.ndarray:
    """Indices of points accepted in the given order, each at least `spacing_nm` from all accepted before.

    Parameters
    ----------
    places_nm : array, shape (n, 2)
        Candidates, the most wanted first.
    spacing_nm : float
        Smallest distance between two accepted points.
    limit : int
        Stop after so many.
    stretch : array, shape (n,), or None
        At least 1: a candidate must be this many times farther from those accepted before it.
    clear_nm : array, shape (n,), or None
        How far each candidate is from what was measured before; it keeps the same distance from that.
    """
    if spacing_nm <= 0:
        return np.arange(min(limit, len(places_nm)))
    # A cell of side spacing / sqrt(2) holds one point at most, so a candidate has 24 cells to look at (Bridson 2007).
    cell = spacing_nm / math.sqrt(2.0)
    corner = places_nm.min(axis=0) if len(places_nm) else np.zeros(2)
    cells = np.floor((places_nm - corner) / cell).astype(int).tolist()
    places = places_nm.tolist()
    taken: dict[tuple[int, int], tuple[float, float]] = {}
    reach = [1.0] * len(places) if stretch is None else stretch.tolist()
    clear = [math.inf] * len(places) if clear_nm is None else clear_nm.tolist()
    accepted: list[int] = []
    for index, (row, column) in enumerate(cells):
        if (row, column) in taken:
            continue
        y, x = places[index]
        free = True
        far = math.ceil(math.sqrt(2.0) * reach[index] - 1e-9)
        smallest = (spacing_nm * reach[index]) ** 2 * (1.0 - 1e-9)
        if clear[index] ** 2 < smallest:
            continue
        for other_row in range(row - far, row + far + 1):
            for other_column in range(column - far, column + far + 1):
                other = taken.get((other_row, other_column))
                if other is not None and (other[0] - y) ** 2 + (other[1] - x) ** 2 < smallest:
                    free = False
                    break
            if not free:
                break
        if free:
            taken[row, column] = (y, x)
            accepted.append(index)
            if len(accepted) == limit:
                break
    return np.array(accepted, dtype=int)


def spread(
    places_nm: np.ndarray,
    wanted: int,
    *,
    spacing_nm: float | None,
    finest_nm: float,
    stretch: np.ndarray | None = None,
    taken_nm: np.ndarray | None = None,
) -> np.ndarray:
    """Up to `wanted` indices out of `places_nm` (the most wanted first), well apart.

    Where `spacing_nm` is None it is made as large as still gives `wanted` points, so that they cover everything there is
    rather than crowd where the score is highest; `finest_nm` is the smallest distance that makes sense (a pixel).
    `stretch` (n,), at least 1, lets the less wanted lie farther apart; it is not applied where a spacing was asked for.
    From the places `taken_nm` (m, 2), measured before, the points keep the distance that they keep from each other.
    """
    if len(places_nm) == 0 or wanted <= 0:
        return np.zeros(0, dtype=int)
    most = max(MOST_CANDIDATES, 20 * wanted)
    if len(places_nm) > most:
        # Every so many, by rank: a large overview must not take minutes, and has more candidates than anybody needs.
        ranks = np.linspace(0, len(places_nm) - 1, most).astype(int)
        thinned = None if stretch is None else stretch[ranks]
        kept = spread(
            places_nm[ranks], wanted, spacing_nm=spacing_nm, finest_nm=finest_nm, stretch=thinned, taken_nm=taken_nm
        )
        return np.asarray(ranks[kept])
    clear = distances_nm(places_nm, taken_nm)
    if spacing_nm is not None:
        return keep_apart(places_nm, spacing_nm, wanted, clear_nm=clear)
    best = keep_apart(places_nm, finest_nm, wanted, stretch, clear)
    if len(best) < wanted:
        return best if stretch is None else keep_apart(places_nm, finest_nm, wanted, clear_nm=clear)
    extent = np.ptp(places_nm, axis=0) + finest_nm
    low = finest_nm
    # No packing of discs is denser than pi / sqrt(12), which bounds the spacing from above.
    high = max(
        low, 2.0 * math.sqrt(float(extent[0] * extent[1]) / (wanted * math.sqrt(12.0))) + float(extent.max()) / wanted
    )
    for _ in range(9):
        middle = 0.5 * (low + high)
        trial = keep_apart(places_nm, middle, wanted, stretch, clear)
        if len(trial) == wanted:
            best, low = trial, middle
        else:
            high = middle
    return best


def distances_nm(places_nm: np.ndarray, taken_nm: np.ndarray | None) -> np.ndarray:
    """How far each of the places (n, 2) is from the nearest of those taken (m, 2), shape (n,); infinite where none is."""
    if taken_nm is None or not len(taken_nm):
        return np.full(len(places_nm), np.inf)
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(taken_nm).query(places_nm)[0])
