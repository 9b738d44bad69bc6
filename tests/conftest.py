"""What every room's tests share: the folder of recorded files, seeds, and a reason where a display is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.recordings import axis, write_recording

# Derandomised: a failure on one machine is a failure on every machine. No deadline: two cores are shared by many.
settings.register_profile(
    "smarttem", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
# SMARTTEM_HYPOTHESIS=hunt looks for what the fixed examples miss: fresh chance each time, many more examples.
settings.register_profile(
    "hunt",
    deadline=None,
    derandomize=False,
    max_examples=600,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("SMARTTEM_HYPOTHESIS", "smarttem"))


def _data_folder() -> Path | None:
    stated = os.environ.get("SMARTTEM_DATA")
    folder = Path(stated) if stated else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real microscope files; skips where it is absent."""
    folder = _data_folder()
    if folder is None:
        pytest.skip("no folder of recorded files (set SMARTTEM_DATA, or put it beside the checkout as shared/data)")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Chance with a seed."""
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def small_recording(tmp_path_factory) -> Path:
    """An EELS spectrum image of 12 x 10 pixels and 64 channels, 2 nm pixels, 0.2 s each, Poisson counts."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:12, :10]
    mean = (5 + y + 2 * x)[..., None] * np.linspace(2, 0.5, 64)
    return write_recording(
        tmp_path_factory.mktemp("recording") / "small.hspy",
        rng.poisson(mean).astype(np.uint16),
        [
            axis("y", 12, 2.0, "nm", True, offset=100.0),
            axis("x", 10, 2.0, "nm", True, offset=-40.0),
            axis("Energy loss", 64, 0.5, "eV", False, offset=280.0),
        ],
        Acquisition_instrument={
            "TEM": {
                "beam_energy": 200.0,
                "beam_current": 0.05,
                "Detector": {"EELS": {"exposure": 0.2, "dwell_time": 0.2}},
            }
        },
    )


def _no_display() -> str:
    platform = os.environ.get("QT_QPA_PLATFORM", "")
    if platform in ("offscreen", "minimal"):
        return f"QT_QPA_PLATFORM={platform} has no OpenGL; run under a display or xvfb-run"
    needs_server = sys.platform.startswith("linux")
    if needs_server and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "no display; run under xvfb-run"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a window are skipped, with the reason, where there cannot be one."""
    reason = _no_display()
    if reason:
        for item in items:
            if item.get_closest_marker("gui"):
                item.add_marker(pytest.mark.skip(reason=reason))
