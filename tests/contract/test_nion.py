"""The contract on Nion's simulated column, where it is installed, and its traps.

``SMARTTEM_NION_PYTHON`` names the Python of an environment with nionswift-usim.
"""

from __future__ import annotations

import importlib.util
import os
import threading

import numpy as np
import pytest

from napari_smarttem.backends import registry
from napari_smarttem.backends.guard import Guard
from napari_smarttem.engine.session import Session
from napari_smarttem.schema import BadInput, PlanSpec

from .suite import ContractSuite

HERE = importlib.util.find_spec("nion") is not None and importlib.util.find_spec("nion.usim_device") is not None
installed = pytest.mark.skipif(
    not (os.environ.get("SMARTTEM_NION_PYTHON") or HERE),
    reason="nionswift-usim is not installed (set SMARTTEM_NION_PYTHON)",
)
NEVER = threading.Event()


@pytest.fixture(scope="module")
def column():
    instrument = registry.connect("nion")
    yield instrument
    instrument.close()


@installed
class TestNion(ContractSuite):
    cancel_within_s = 1.5

    @pytest.fixture
    def instrument(self, column):
        return Guard(column)


@installed
class TestTraps:
    """What goes wrong with that simulator if one does not know it."""

    def test_spectra_are_taken_where_the_scan_shows_the_place(self, column):
        """Its scan context is another one until a frame was viewed: flakes must lose more energy than vacuum."""
        (image,) = column.scan(field=column.field, shape=(64, 64), dwell_s=2e-5, signals=("HAADF",), cancel=NEVER)
        data = np.asarray(image.data)
        data = sum(np.roll(data, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1))[2:-2, 2:-2]
        losses = []
        for index in (data.argmax(), data.argmin()):
            row, number = np.unravel_index(index, data.shape)
            column.move_probe(float(image.coordinates("y")[row + 2]), float(image.coordinates("x")[number + 2]))
            frame = column.acquire_spectrum(0.05, NEVER)
            energy = frame.coordinates("energy_loss")
            counts = np.asarray(frame.data, float)
            losses.append(counts[energy > 10].sum() / counts.sum())
        assert losses[0] > 0.1
        assert abs(losses[1]) < 0.02

    def test_the_last_array_is_the_spectrum_and_its_zero_loss_lies_at_zero(self, column):
        column.move_probe(100.0, 100.0)
        frame = column.acquire_spectrum(0.05, NEVER)
        assert frame.shape == (1024,)
        assert abs(frame.coordinates("energy_loss")[np.argmax(frame.data)]) < 1.0

    def test_the_frame_under_way_is_left_aside_after_a_change(self, column):
        before = column.get()["C1"]
        column.move_probe(100.0, 100.0)
        images = {}
        for defocus in (50.0, 1000.0):
            column.set({"C1": defocus})
            images[defocus] = [np.asarray(column.acquire_image(0.05, NEVER).data, float).ravel() for _ in range(2)]
        column.set({"C1": before})
        for pair in images.values():
            assert np.corrcoef(*pair)[0, 1] > 0.9
        assert np.corrcoef(images[50.0][0], images[1000.0][0])[0, 1] < 0.9

    def test_there_is_no_blanker_that_does_not_blank(self, column):
        assert column.blanker is None

    def test_the_acquisition_plan_runs(self, tmp_path):
        with Session(tmp_path) as session:
            session.connect("nion").result()
            settings = {"chooser": "edges", "points": 6, "exposure_s": 0.02, "drift_every": 3}
            session.start(PlanSpec(kind="acquisition", settings=settings), policy="approve_all")
            session.wait()
            assert session.status.outcome == "finished", session.status.reason

    def test_spectra_unmix_into_flakes_and_vacuum(self, column, tmp_path):
        """Where a component's map is high, the scan shows a flake."""
        pytest.importorskip("threadpoolctl")
        from napari_smarttem.unmixing import unmix

        (image,) = column.scan(field=column.field, shape=(256, 256), dwell_s=2e-5, signals=("HAADF",), cancel=NEVER)
        hidden = np.asarray(image.data, float)
        smooth = sum(np.roll(hidden, (i, j), (0, 1)) for i in range(-2, 3) for j in range(-2, 3)) / 25
        step = image.axis("y").scale
        flakes = [
            tuple(int(v) for v in np.unravel_index(i, smooth.shape)) for i in np.argsort(smooth, axis=None)[::-300][:40]
        ]
        chance = np.random.default_rng(1)
        empty = [(int(y), int(x)) for y, x in chance.integers(4, 252, (400, 2)) if smooth[y, x] < np.median(smooth)][
            :40
        ]
        spectra = []
        for row, number in flakes + empty:
            column.move_probe((row + 0.5) * step, (number + 0.5) * step)
            spectra.append(np.asarray(column.acquire_spectrum(0.02, NEVER).data))
        result = unmix(np.clip(np.stack(spectra), 0, None), method="minimum-volume", components=2)
        bright = np.array([smooth[place] for place in flakes + empty])
        best = max(abs(np.corrcoef(one.ravel(), bright)[0, 1]) for one in result.maps)
        assert best > 0.8

    def test_the_alignment_says_that_it_cannot_and_leaves_the_optics(self, tmp_path):
        """Its Ronchigrams reach beyond 100 mrad, and are shadows by geometrical optics: there are no rings to measure on."""
        pytest.importorskip("torch")
        from napari_smarttem.alignment.targets.loop import controls_of

        with Session(tmp_path) as session:
            session.connect("nion", sample=1).result()
            optics = session.instrument.optics
            before, moved = optics.get(), []
            session.step_finished.connect(lambda _result: moved.append(optics.get()["C1"]))
            settings = {
                "controls": controls_of(optics), "control_names": ["C1"], "model": None, "high_tension_v": 200e3,
                "offsets_nm": [-900.0], "exposure_s": 0.05,
            }  # fmt: skip
            session.start(PlanSpec(kind="alignment", settings=settings), policy="approve_all")
            session.wait()
            assert session.status.outcome == "failed"
            assert "half-angle of the frame must lie between 2 and 100 mrad" in session.status.reason
            assert max(abs(c1 - before["C1"]) for c1 in moved) > 100
            assert optics.get() == pytest.approx(before, abs=1e-6)


def test_without_it_a_sentence_says_what_to_install(tmp_path):
    for python in (str(tmp_path / "nothing"), ""):
        if python or not (os.environ.get("SMARTTEM_NION_PYTHON") or HERE):
            with pytest.raises(BadInput, match=r"environment|nionswift-usim"):
                registry.connect("nion", python=python)
