import json

import numpy as np
import pytest

from napari_smarttem.bench import acquire


def test_drift_is_followed_on_the_simulator():
    met, held, uncorrected = (float(np.sqrt(np.mean(d**2))) for d in acquire.drift_residuals(0, points=60))
    assert met <= 0.3 < held < uncorrected


def test_choosers_beat_chance_on_recorded_particles(shared_data):
    found = acquire.recorded_fractions(shared_data / "core_shell.hspy", range(1))
    assert found["edges"] >= 1.3 * max(found["random"], found["grid"])
    assert found["anomalies"] >= 1.5 * found["random"]


@pytest.mark.slow
def test_the_report_has_the_figures_and_is_json(monkeypatch, tmp_path):
    monkeypatch.setenv("SMARTTEM_DATA", str(tmp_path))
    report = json.loads(json.dumps(acquire.run(quick=True, seed=0)))
    figures = report["figures"]
    assert {f"boundary_fraction_{name}" for name in acquire.CHOOSERS} | {"drift_residual_px_rms"} <= set(figures)
    assert figures["boundary_fraction_recorded_edges"]["value"] is None
    assert set(figures["boundary_fraction_edges"]["baselines"]) == {"random", "grid"}
