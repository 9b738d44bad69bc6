"""Writes small recordings as HyperSpy would, for tests that play them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def axis(name, size, scale, units, navigate, *, offset=0.0):
    return {
        "name": name, "size": size, "scale": scale, "offset": offset, "units": units,
        "navigate": navigate, "_type": "UniformDataAxis",
    }  # fmt: skip


def write_recording(path: Path, data: np.ndarray, axes: list[dict], signal_type="EELS", **metadata) -> Path:
    """A ``.hspy`` file as HyperSpy would have written it."""
    from rsciio.hspy import file_writer

    general = {"title": path.stem, **metadata.pop("General", {})}
    signal = {
        "data": data,
        "axes": axes,
        "metadata": {"General": general, "Signal": {"signal_type": signal_type}, **metadata},
        "original_metadata": {},
        "attributes": {"_lazy": False, "ragged": False},
        "learning_results": {},
        "models": {},
        "tmp_parameters": {},
        "package_info": {"package": "hyperspy", "package_version": "2.3"},
    }
    file_writer(str(path), signal)
    return path
