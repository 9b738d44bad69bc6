"""What a user would use today, run on the same data in the same process: HyperSpy and scikit-learn."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import numpy as np

RIVALS = ("hyperspy NMF", "hyperspy BSS", "hyperspy NMF tight", "sklearn NMF", "sklearn NMF tight", "sklearn NMF KL")


def run(name: str, data: np.ndarray, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """Endmembers ``(k, channels)``, maps ``(k, y, x)`` and CPU seconds of one rival on a spectrum image.

    "tight" is the same with a tolerance of 1e-6 and up to 1000 iterations, where the default stops after tens.
    """
    logging.getLogger("hyperspy").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.process_time()
        if name.startswith("hyperspy"):
            endmembers, maps = _hyperspy(name, data, k, seed)
        else:
            endmembers, maps = _sklearn(name, data, k, seed)
        return endmembers, maps, time.process_time() - began


def _hyperspy(name: str, data: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    import hyperspy.api as hs

    hs.preferences.General.show_progressbar = False
    signal: Any = hs.signals.Signal1D(data.copy())
    options: dict[str, Any] = {"normalize_poissonian_noise": True, "output_dimension": k, "print_info": False}
    if "NMF" in name:
        if "tight" in name:
            options |= {"tol": 1e-6, "max_iter": 1000}
        signal.decomposition(algorithm="NMF", random_state=seed, **options)
        loadings, factors = signal.get_decomposition_loadings(), signal.get_decomposition_factors()
        return np.asarray(factors.data), np.asarray(loadings.data)
    options["output_dimension"] = 10
    signal.decomposition(algorithm="SVD", svd_solver="randomized", random_state=seed, **options)
    signal.blind_source_separation(number_of_components=k, print_info=False, random_state=seed)
    factors = np.asarray(signal.get_bss_factors().data)
    loadings = np.asarray(signal.get_bss_loadings().data)
    # each sign as it makes most of the map positive: BSS leaves it open
    signs = np.where(loadings.sum(axis=(1, 2)) < 0, -1.0, 1.0)
    return factors * signs[:, None], loadings * signs[:, None, None]


def _sklearn(name: str, data: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.decomposition import NMF

    options: dict[str, Any] = {"init": "nndsvda", "random_state": seed}
    if "KL" in name:
        options |= {"solver": "mu", "beta_loss": "kullback-leibler", "max_iter": 200}
    elif "tight" in name:
        options |= {"tol": 1e-6, "max_iter": 1000}
    model = NMF(k, **options)
    loadings = model.fit_transform(data.reshape(-1, data.shape[-1]))
    return np.asarray(model.components_), np.asarray(loadings.T.reshape(k, *data.shape[:2]))
