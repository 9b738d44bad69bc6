"""Single measurements of the unmixing: rank, error bars, few labels, memory, data on disk."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from ...unmixing import UnmixingResult, unmix
from . import unmixing_large as large
from . import unmixing_sets as sets


def coverage(truth: sets.Truth, result: UnmixingResult) -> tuple[float, float]:
    """Part of true amounts within one error bar: of those above 2 %, and of all."""
    from scipy.optimize import linear_sum_assignment

    k = len(truth.maps)
    if result.components != k:
        return 0.0, 0.0
    cross = np.corrcoef(result.maps.reshape(k, -1), truth.maps.reshape(k, -1))[:k, k:]
    mine, theirs = linear_sum_assignment(-cross)
    scale = np.linalg.norm(result.endmembers[mine], axis=1) / np.linalg.norm(truth.endmembers[theirs], axis=1)
    off = (result.maps[mine] * scale[:, None, None] - truth.maps[theirs]) / (
        result.map_errors[mine] * scale[:, None, None]
    )
    inside = np.abs(off) < 1
    return float(inside[truth.maps[theirs] > 0.02].mean()), float(inside.mean())


def rank_right(count: int, seed: int) -> float:
    """Part of `count` random sets (2..6 components, 3..100 counts) whose number of components is found."""
    right = 0
    for turn in range(count):
        rng = np.random.default_rng([seed, turn])
        k, counts = int(rng.integers(2, 7)), float(np.exp(rng.uniform(np.log(3), np.log(100))))
        truth = sets.easy(1000 * (seed + 1) + turn, (48, 48), 512, k=k, counts=counts)
        right += unmix(truth.data).components == k
    return right / count


def painted(truth: sets.Truth, part: float, rng: np.random.Generator, clear: float = 0.6) -> np.ndarray:
    """Labels ``(y, x)`` of `part` of the pixels, as many of each kind, where its true amount is above `clear`; 0 elsewhere."""
    kinds = truth.maps.argmax(axis=0) + 1
    labels = np.zeros(kinds.shape, dtype=int)
    each = max(2, round(part * kinds.size / len(truth.maps)))
    for kind in range(1, len(truth.maps) + 1):
        places = np.argwhere((kinds == kind) & (truth.maps.max(axis=0) > clear))
        chosen = places[rng.choice(len(places), min(each, len(places)), replace=False)]
        labels[chosen[:, 0], chosen[:, 1]] = kind
    return labels


def few_label_accuracy(seed: int) -> tuple[float, float]:
    """Pixels of the right kind after painting 0.3 % of them, 128x128x1024, and what the true spectra would reach."""
    truth = sets.easy(seed)
    labels = painted(truth, 0.003, np.random.default_rng(seed))
    result = unmix(truth.data, method="labels", labels=labels)
    kinds = truth.maps.argmax(axis=0) + 1
    return float((result.extra["labels"] == kinds)[labels == 0].mean()), attainable_accuracy(truth)


def attainable_accuracy(truth: sets.Truth) -> float:
    """Pixels of the right kind when every true spectrum is known: the largest of the amounts of a weighted fit."""
    spectra = truth.endmembers
    weighted = spectra / np.maximum(spectra.mean(axis=0), 1e-9)
    amounts = (truth.data.reshape(-1, spectra.shape[1]) @ weighted.T.astype(np.float32)) @ np.linalg.inv(
        weighted @ spectra.T
    )
    return float((amounts.argmax(axis=1) == truth.maps.argmax(axis=0).ravel()).mean())


def peak_extra_fraction(seed: int) -> float:
    """Peak of what NumPy allocates during an unmixing over the size of the data, 128x128x2048."""
    truth = sets.easy(seed, (128, 128), 2048)
    unmix(truth.data)
    tracemalloc.start()
    try:
        unmix(truth.data)
        return tracemalloc.get_traced_memory()[1] / truth.data.nbytes
    finally:
        tracemalloc.stop()


def out_of_core(seed: int, *, rows: int) -> tuple[float, float]:
    """Time over that of reading the file once, and the largest difference of maps to the answer from memory."""
    truth = sets.easy(seed, (rows, 256), 2048)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npy"
        np.save(path, truth.data)
        inside = unmix(truth.data, seed=seed)
        del truth
        ratios = []
        for _ in range(3):
            reading = large.reading_seconds(path)
            mapped = np.load(path, mmap_mode="r")
            large.forget(path)
            began = time.perf_counter()
            outside = unmix(mapped, seed=seed)
            ratios.append((time.perf_counter() - began) / reading)
        if outside.components != inside.components:
            return float(np.median(ratios)), float("inf")
        difference = float(np.abs(outside.maps - inside.maps).max() / np.abs(inside.maps).max())
        return float(np.median(ratios)), difference


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Part of the pixels in which two classifications say the same, whatever their numbers for the kinds."""
    from scipy.optimize import linear_sum_assignment

    a, b = (np.unique(labels, return_inverse=True)[1].ravel() for labels in (one, other))
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / table.sum())


def autoencoder_agreement(seed: int, turns: int = 3) -> dict[str, float]:
    """Autoencoder + mixture against few labels and the truth where one kind is more than 0.8, and the scores' mixture.

    64x64x1024, 30 counts a channel, 0.3 % painted, means of `turns` data seeds.
    """
    found: dict[str, list[float]] = {
        "with_few_labels": [],
        "with_truth": [],
        "few_labels_with_truth": [],
        "scores_mixture_with_truth": [],
    }
    for turn in range(turns):
        truth = sets.easy(seed + turn, (64, 64), 1024)
        kinds, clear = truth.maps.argmax(axis=0), truth.maps.max(axis=0) > 0.8
        k = len(truth.maps)
        labels = painted(truth, 0.003, np.random.default_rng(seed + turn), clear=0.8)
        few = unmix(truth.data, method="labels", labels=labels, components=k).extra["labels"]
        learnt = unmix(truth.data, method="autoencoder", components=k).extra["labels"]
        mixture = unmix(truth.data, method="clusters", mixture=True, components=k).extra["labels"]
        found["with_few_labels"].append(agreement(learnt[clear], few[clear]))
        found["with_truth"].append(agreement(learnt[clear], kinds[clear]))
        found["few_labels_with_truth"].append(agreement(few[clear], kinds[clear]))
        found["scores_mixture_with_truth"].append(agreement(mixture[clear], kinds[clear]))
    return {name: float(np.mean(values)) for name, values in found.items()}
