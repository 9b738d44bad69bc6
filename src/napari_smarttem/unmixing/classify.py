"""Every pixel to one class: by clusters of the scores, or by a few pixels that a person painted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import BadInput
from . import abundances
from .abundances import gain
from .auto import find_auto
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
        # one covariance for all: with one of its own a wide kind takes in the mixtures that lie between the others
        model: Any = GaussianMixture(k, covariance_type="tied", reg_covar=1e-3, n_init=3, random_state=seed)
        model.fit(points if len(points) <= 50_000 else points[problem.rng.choice(len(points), 50_000, replace=False)])
        probabilities = np.asarray(model.predict_proba(points))
    else:
        labels = KMeans(k, n_init=5, random_state=seed).fit_predict(points)
        probabilities = np.eye(k)[labels]
    return from_probabilities(problem, probabilities, "Every pixel belongs to one of a few kinds, not to a mixture.")


def find_labelled(problem: Problem) -> Found:
    """Classes from painted pixels; needs ``labels`` ``(y, x)``: 0 unknown, 1.. the classes.

    A pixel is of the kind that it holds most of, where unmixing without the labels finds the kinds that were painted; else
    (kinds that are mixtures of the same things, say) a logistic regression on the scores tells them apart. Which of the two
    it is the painted pixels decide.

    Raises
    ------
    BadInput
        No labels, labels of another size, or of fewer than two kinds.
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
    most = _by_amount(problem, flat, classes)
    probabilities, right = _by_regression(problem, flat, classes)
    sentence = "Every pixel is of one of the kinds that were painted."
    if most is not None and float((classes[most.argmax(axis=1)] == flat)[flat > 0].mean()) >= right:
        probabilities = most
        sentence = "Every pixel is of the painted kind that it holds most of; how much of each it holds, unmixing says."
    return from_probabilities(problem, probabilities, sentence, classes.astype(int))


def _by_amount(problem: Problem, labels: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    """Chance that a pixel holds most of each class, ``(pixels, classes)``; None where a class is no component of its own.

    The few painted pixels do not say where between two kinds the border lies: that amounts are equal there does. A component
    belongs to the class whose painted pixels hold most of it.
    """
    subspace = problem.subspace
    corners = find_auto(problem).corners
    scores = subspace.scores[:, : corners.shape[1]].astype(np.float64)
    amounts = abundances.nonnegative(scores, corners)
    scale = abundances.whole(amounts * subspace.pixel_scale[:, None], subspace.spectra(corners))
    errors = abundances.errors(subspace, corners, amounts) / scale
    amounts /= scale
    parts = amounts / np.maximum(amounts.sum(axis=1, keepdims=True), 1e-300)
    held = np.stack([parts[labels == c].mean(axis=0) for c in classes])
    owner = held.argmax(axis=0)
    if len(np.unique(owner)) < len(classes):
        return None
    member = np.eye(len(classes))[owner]
    of_class, variance = amounts @ member, np.maximum(errors**2 @ member, 1e-300)
    return chance_of_largest(of_class, variance)


def chance_of_largest(values: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Chance of each of the values ``(n, m)`` of independent normal errors to be the largest, by comparing every two."""
    from scipy.special import log_ndtr

    chance = np.zeros_like(values)
    for c in range(values.shape[1]):
        for d in range(values.shape[1]):
            if c != d:
                chance[:, c] += log_ndtr((values[:, c] - values[:, d]) / np.sqrt(variance[:, c] + variance[:, d]))
    chance = np.exp(chance - chance.max(axis=1, keepdims=True))
    return np.asarray(chance / chance.sum(axis=1, keepdims=True))


def _by_regression(problem: Problem, labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, float]:
    """Logistic regression on the scores: chances ``(pixels, classes)``, and which part of painted pixels it has right.

    Its strength is chosen by cross-validation on the painted pixels alone, and so is the part it has right.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    points, painted = features(problem), labels > 0
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    fewest = int(min((labels == c).sum() for c in classes))
    if fewest >= 3:
        folds = StratifiedKFold(min(5, fewest), shuffle=True, random_state=int(problem.rng.integers(2**31 - 1)))
        model = GridSearchCV(model, {"logisticregression__C": [0.01, 0.1, 1.0, 10.0, 100.0]}, cv=folds)
    model.fit(points[painted], labels[painted])
    right = float(model.best_score_) if fewest >= 3 else float(model.score(points[painted], labels[painted]))
    return np.asarray(model.predict_proba(points)), right


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
