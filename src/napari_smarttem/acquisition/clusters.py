"""Points from every kind of place there is, with a quota for the rare kinds."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from .choosers import Choice, Chooser, Pick, Wanted
from .features import texture
from .overview import Overview
from .settings import Options
from .spacing import spread

LARGEST_FIT = 20_000


class ClusterOptions(Options):
    """Settings of the cluster chooser."""

    clusters: int = Field(default=4, ge=2, le=20, description="Number of kinds of places.")
    method: Literal["k-means", "gmm"] = Field(
        default="k-means", description="Round clusters of like spread, or a Gaussian mixture of any shape."
    )
    rarity: float = Field(
        default=1.5,
        ge=0,
        le=2,
        description="0: points in proportion to area; 1: every kind gets the same number; above: the rarer, the more.",
    )
    finest_px: float = Field(
        default=1.5, gt=0.3, le=50, description="Finest scale of the features.", json_schema_extra={"units": "px"}
    )


def choose_clusters(overview: Overview, options: ClusterOptions, wanted: Wanted) -> Choice:
    """k-means or a Gaussian mixture of brightness, gradient and roughness at three scales; typical members first."""
    if overview.is_flat or overview.image.size < 4 * options.clusters:
        return Choice(remarks=("The overview is flat or too small to tell kinds of places apart.",))
    features, _ = texture(overview, tuple(options.finest_px * factor for factor in (1.0, 2.0, 4.0)))
    labels, distance = _cluster(features, options, wanted.rng)
    brightness = overview.image.ravel()
    present = [c for c in range(options.clusters) if (labels == c).any()]
    present.sort(key=lambda cluster: float(brightness[labels == cluster].mean()))
    allowed = np.flatnonzero(overview.allowed.ravel())
    members = [allowed[labels[allowed] == cluster] for cluster in present]
    quotas = quota([len(m) for m in members], wanted.points, options.rarity)
    mean = float(brightness.mean())
    picks: list[Pick] = []
    for number, (cluster, own, share) in enumerate(zip(present, members, quotas, strict=True)):
        if share == 0:
            continue
        fraction = float((labels == cluster).mean())
        places = own[np.argsort(distance[own], kind="stable")]
        rows, columns = np.divmod(places, overview.shape[1])
        kept = spread(
            overview.positions_nm(rows, columns),
            share,
            spacing_nm=wanted.spacing_nm,
            finest_nm=overview.mean_pixel_nm,
            taken_nm=overview.taken_nm,
        )
        level = float(brightness[labels == cluster].mean())
        against = f"{level / mean:.2f}x the mean brightness" if mean > 0 else f"mean brightness {level:.3g}"
        for index in kept:
            typical = 1.0 - index / len(places)
            score = (1.0 - fraction) * (0.5 + 0.5 * typical)
            reason = (
                f"kind {number + 1} of {len(present)}: {100 * fraction:.2g} % of the overview, {against}; "
                f"more typical than {100 * typical:.0f} % of it"
            )
            picks.append(Pick(float(rows[index]), float(columns[index]), score, f"cluster {number + 1}", reason))
    return Choice(_apart(picks, overview, wanted))


def _apart(picks: list[Pick], overview: Overview, wanted: Wanted) -> tuple[Pick, ...]:
    """Picks of different clusters kept apart too, where a spacing was asked for; the highest score wins."""
    if wanted.spacing_nm is None:
        return tuple(picks)
    ordered = sorted(picks, key=lambda pick: -pick.score)
    places = overview.positions_nm(np.array([p.row for p in ordered]), np.array([p.column for p in ordered]))
    kept = spread(places, wanted.points, spacing_nm=wanted.spacing_nm, finest_nm=overview.mean_pixel_nm)
    return tuple(ordered[index] for index in kept)


def _cluster(features: np.ndarray, options: ClusterOptions, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cluster of every pixel and how far it is from the middle of it (small: typical)."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    sample = features
    if len(features) > LARGEST_FIT:
        sample = features[rng.choice(len(features), LARGEST_FIT, replace=False)]
    seed = int(rng.integers(2**31 - 1))
    model: Any
    with warnings.catch_warnings():
        # Fewer distinct pixels than clusters is no fault: the empty ones get no points.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if options.method == "gmm":
            model = GaussianMixture(options.clusters, covariance_type="full", reg_covar=1e-4, random_state=seed)
            model.fit(sample)
            labels = model.predict(features)
            return np.asarray(labels), -np.asarray(model.score_samples(features))
        model = KMeans(options.clusters, n_init=4, random_state=seed).fit(sample)
    to_all = model.transform(features)
    labels = to_all.argmin(axis=1)
    return labels, to_all[np.arange(len(labels)), labels]


def quota(sizes: list[int], points: int, rarity: float) -> list[int]:
    """How many of `points` each class gets: in proportion to ``size ** (1 - rarity)``, never more than it has room for.

    What a small class cannot use goes to the others; the sum is the smaller of `points` and all places.
    """
    room = np.array(sizes, dtype=int)
    shares = np.zeros(len(sizes), dtype=int)
    weight = np.where(room > 0, np.maximum(room, 1).astype(float) ** (1.0 - rarity), 0.0)
    left = min(points, int(room.sum()))
    while left > 0:
        open_ = shares < room
        part = np.where(open_, weight, 0.0)
        ideal = left * part / part.sum()
        extra = np.minimum(np.floor(ideal).astype(int), room - shares)
        if extra.sum() == 0:
            # Fewer points left than classes: one at a time, to the class with the fewest for its weight (Sainte-Laguë).
            extra[int(np.argmax(part / (shares + 0.5)))] = 1
        shares += extra
        left -= int(extra.sum())
    return [int(s) for s in shares]


CHOOSER = Chooser(
    "clusters",
    "Kinds of places",
    "Sorts the overview into kinds of places and takes some of each, with a quota for the rare ones.",
    ClusterOptions,
    choose_clusters,
)
