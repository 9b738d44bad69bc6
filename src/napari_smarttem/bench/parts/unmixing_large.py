"""Data larger than memory: a file written piece by piece, read once, unmixed in a process of its own, and what others need.

``python -m napari_smarttem.bench.parts.unmixing_large FOLDER`` makes the file of 1024x512x4096 (8.6 GB, some minutes), measures
and removes it; ``--rivals`` measures HyperSpy's lazy decomposition and dask's `svd_compressed` on 0.5 GB instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import unmixing_sets as sets

SHAPE = (1024, 512, 4096)
PIECE_ROWS = 8
OURS = "smarttem unmix"


def write(path: Path, shape: tuple[int, int, int], seed: int) -> sets.Truth:
    """Write an easy set of `shape` as float32 ``.npy`` a few rows at a time; the truth comes back without its data.

    The noise is normal with the variance of counting, rounded to counts: two thousand million Poisson numbers take minutes.
    """
    rng = np.random.default_rng(seed)
    spectrum = sets.spectra(rng, 4, shape[2]) * 30.0
    maps = sets.fields(rng, 4, shape[:2])
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for first in range(0, shape[0], PIECE_ROWS):
        mean = np.tensordot(
            maps[:, first : first + PIECE_ROWS].astype(np.float32), spectrum.astype(np.float32), axes=(0, 0)
        )
        noisy = rng.standard_normal(mean.shape, dtype=np.float32)
        noisy *= np.sqrt(mean)
        noisy += mean
        out[first : first + PIECE_ROWS] = np.maximum(np.rint(noisy, out=noisy), 0.0, out=noisy)
        if first % 128 == 0:
            out.flush()
    out.flush()
    return sets.Truth(np.zeros((0, 0, 0), np.float32), spectrum, maps)


def forget(path: Path) -> None:
    """Ask the system to drop its copy of the file in memory, so that the disk is read."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading_seconds(path: Path) -> float:
    """Clock seconds of reading the whole file once from the disk into one buffer, in pieces of 16 MB."""
    forget(path)
    buffer = bytearray(2**24)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - began


def unmix_file(path: Path, seed: int = 0) -> dict[str, Any]:
    """Unmix a file from the disk in this process: clock and CPU seconds, peak of resident memory, and the answer's size."""
    import resource

    from ...unmixing import unmix

    unmix(sets.easy(seed, (32, 32), 256).data)  # compile
    forget(path)
    clock, cpu = time.perf_counter(), time.process_time()
    result = unmix(np.load(path, mmap_mode="r"), seed=seed)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    np.savez(path.with_suffix(".found.npz"), maps=result.maps, endmembers=result.endmembers)
    return {
        "seconds": clock,
        "cpu_seconds": cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "components": result.components,
        "passes": result.provenance["passes"],
        "chi2": result.chi2,
    }


def in_own_process(path: Path, seed: int = 0) -> dict[str, Any]:
    """`unmix_file` in a fresh process, for its memory alone to be counted; the answer lies beside the file."""
    command = [sys.executable, "-m", __name__, str(path), "--unmix", "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - this file, this interpreter
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(folder: Path, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> dict[str, Any]:
    """Write, read, unmix and remove one file."""
    path = folder / "unmixing_large.npy"
    try:
        truth = write(path, shape, seed)
        figures = {"gigabytes": path.stat().st_size / 1e9, "reading_seconds": reading_seconds(path)}
        figures |= in_own_process(path, seed)
        figures["times_read"] = figures["seconds"] / figures["reading_seconds"]
        with np.load(path.with_suffix(".found.npz")) as found:
            angle, error = sets.matched(truth, found["endmembers"], found["maps"])
        return figures | {"spectral_angle_deg": angle, "abundance_rmse": error}
    finally:
        path.unlink(missing_ok=True)
        path.with_suffix(".found.npz").unlink(missing_ok=True)


def compare(folder: Path, shape: tuple[int, int, int] = (256, 256, 2048), seed: int = 0) -> dict[str, Any]:
    """Seconds and relative error of a model of four components, of each program that can, on the same file of 0.5 GB.

    The error is that of the model to the mean spectra without noise, on every 8th row: it says whether the vectors are right.
    """
    path = folder / "unmixing_rivals.npy"
    try:
        truth = write(path, shape, seed)
        rows = np.arange(0, shape[0], 8)
        mean = np.tensordot(truth.maps[:, rows], truth.endmembers, axes=(0, 0))
        programs: dict[str, Callable[[Path, np.ndarray], np.ndarray]] = {
            OURS: _ours,
            "dask svd_compressed, one power iteration": _dask,
            "hyperspy lazy SVD": _hyperspy,
            "hyperspy lazy SVD, incremental": _hyperspy_incremental,
        }
        figures: dict[str, Any] = {"reading_seconds": reading_seconds(path)}
        for name, program in programs.items():
            forget(path)
            began, cpu = time.perf_counter(), time.process_time()
            model = program(path, rows)
            figures[name] = {
                "seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time() - cpu,
                "error": float(np.linalg.norm(model - mean) / np.linalg.norm(mean)),
            }
            print(name, json.dumps(figures[name]), file=sys.stderr, flush=True)
        return figures
    finally:
        path.unlink(missing_ok=True)


def _ours(path: Path, rows: np.ndarray) -> np.ndarray:
    from ...unmixing import unmix

    result = unmix(np.load(path, mmap_mode="r"), components=4)
    return np.asarray(np.tensordot(result.maps[:, rows], result.endmembers, axes=(0, 0)))


def _dask(path: Path, rows: np.ndarray) -> np.ndarray:
    """Poisson scaling and `svd_compressed`, as one would write it with dask."""
    import dask
    import dask.array as da

    mapped = np.load(path, mmap_mode="r")
    data = da.from_array(mapped, chunks=(16, *mapped.shape[1:])).reshape(-1, mapped.shape[2])
    g, h = dask.compute(data.mean(axis=1), data.mean(axis=0))
    root_g, root_h = np.sqrt(g / g.mean()), np.sqrt(np.maximum(h, 1e-12))
    scaled = data / root_g[:, None] / root_h
    u, s, v = dask.compute(*da.linalg.svd_compressed(scaled, 4, n_power_iter=1, seed=0))
    keep = (rows[:, None] * mapped.shape[1] + np.arange(mapped.shape[1])).ravel()
    model = (u[keep] * s) @ v * root_g[keep, None] * root_h
    return np.asarray(model).reshape(len(rows), *mapped.shape[1:])


def _hyperspy(path: Path, rows: np.ndarray, **options: Any) -> np.ndarray:
    import dask.array as da
    import hyperspy.api as hs

    mapped = np.load(path, mmap_mode="r")
    signal: Any = hs.signals.Signal1D(da.from_array(mapped, chunks=(16, *mapped.shape[1:]))).as_lazy()
    signal.decomposition(normalize_poissonian_noise=True, output_dimension=4, print_info=False, **options)
    loadings, factors = signal.learning_results.loadings, signal.learning_results.factors
    keep = (rows[:, None] * mapped.shape[1] + np.arange(mapped.shape[1])).ravel()
    model = np.asarray(loadings)[keep, :4] @ np.asarray(factors)[:, :4].T
    return np.asarray(model).reshape(len(rows), *mapped.shape[1:])


def _hyperspy_incremental(path: Path, rows: np.ndarray) -> np.ndarray:
    return _hyperspy(path, rows, svd_solver="incremental")


def main() -> int:
    """Measure from a terminal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--unmix", action="store_true", help="path is a file to unmix")
    options = parser.parse_args()
    if options.unmix:
        figures = unmix_file(options.path, options.seed)
    else:
        options.path.mkdir(parents=True, exist_ok=True)
        figures = (
            compare(options.path, seed=options.seed) if options.rivals else measure(options.path, seed=options.seed)
        )
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
