"""Every pixel to one class: by clusters of the scores, or by a few pixels that a person painted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import BadInput
from .abundances import gain
from .methods_base import Found

if TYPE_CHECKING:
    from .engine import Problem


def features(problem: Problem) -> np.ndarray:
    """Scores of every pixel divided by its brightness, in units of their noise, ``(pixels, k)``."""
    scores = problem.subspace.scores[:, : problem.k].astype(np.float64)
    mean = scores.mean(axis=0)
    mean /= np.linalg.norm(mean)
    along = scores @ mean
    typical = float(np.median(np.abs(along))) or 1.0
    shape = scores / np.where(np.abs(along) > 0.02 * typical, along, np.inf)[:, None] * typical
    return np.asarray(shape / np.sqrt(gain(problem.subspace)))


def find_clusters(problem: Problem) -> Found:
    """k-means of the scores, or a Gaussian mixture with ``mixture=True``: one class a pixel, endmembers are class means."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    points, k = features(problem), problem.k
    seed = int(problem.rng.integers(2**31 - 1))
    if problem.options.get("mixture", False):
        model: Any = GaussianMixture(k, covariance_type="full", reg_covar=1e-3, n_init=3, random_state=seed)
        model.fit(points if len(points) <= 50_000 else points[problem.rng.choice(len(points), 50_000, replace=False)])
        probabilities = np.asarray(model.predict_proba(points))
    else:
        labels = KMeans(k, n_init=5, random_state=seed).fit_predict(points)
        probabilities = np.eye(k)[labels]
    return from_probabilities(problem, probabilities, "Every pixel belongs to one of a few kinds, not to a mixture.")


def find_labelled(problem: Problem) -> Found:
    """Classes from painted pixels; needs ``labels`` ``(y, x)``: 0 unknown, 1.. the classes.

    Logistic regression on the scores, its strength chosen by cross-validation on the painted pixels alone.
    """
    labels = problem.options.get("labels")
    if labels is None:
        raise BadInput("Paint some pixels of every kind in a Labels layer first (0.3 % of them are enough).")
    labels = np.asarray(labels)
    if labels.shape != problem.image.shape:
        raise BadInput(
            f"The labels are {'x'.join(map(str, labels.shape))} pixels and the spectrum image is"
            f" {problem.image.shape[0]}x{problem.image.shape[1]}; paint on a layer of the same size."
        )
    flat = labels.ravel()
    classes = np.unique(flat[flat > 0])
    if len(classes) < 2:
        raise BadInput(f"Paint at least two kinds of pixels; there are {len(classes)} so far.")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    points, painted = features(problem), flat > 0
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    fewest = int(min((flat == c).sum() for c in classes))
    if fewest >= 3:
        folds = StratifiedKFold(min(5, fewest), shuffle=True, random_state=int(problem.rng.integers(2**31 - 1)))
        model = GridSearchCV(model, {"logisticregression__C": [0.01, 0.1, 1.0, 10.0, 100.0]}, cv=folds)
    model.fit(points[painted], flat[painted])
    probabilities = np.asarray(model.predict_proba(points))
    return from_probabilities(
        problem, probabilities, "Every pixel is of one of the kinds that were painted.", classes.astype(int)
    )


def from_probabilities(
    problem: Problem, probabilities: np.ndarray, sentence: str, classes: np.ndarray | None = None
) -> Found:
    """Maps and mean spectra of classes from the probabilities ``(pixels, classes)`` of each pixel."""
    scores = problem.subspace.scores[:, : problem.k].astype(np.float64)
    weights = probabilities / np.maximum(probabilities.sum(axis=0), 1e-30)
    corners = weights.T @ scores
    bright = np.einsum("ij,ij->i", scores, probabilities @ corners)
    bright /= np.maximum(((probabilities @ corners) ** 2).sum(axis=1), 1e-30)
    labels = probabilities.argmax(axis=1)
    names = np.arange(1, probabilities.shape[1] + 1) if classes is None else classes
    return Found(
        corners,
        sentence,
        amounts=probabilities * np.maximum(bright, 0.0)[:, None],
        sort=False,
        extra={"labels": names[labels], "probability": probabilities.max(axis=1)},
    )
