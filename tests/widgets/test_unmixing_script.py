"""What *Copy as Python* gives runs as it is, in a program of its own without a window, and makes the same result."""

# ruff: noqa: F811 (fixtures are imported and then arguments)
from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.io import write
from napari_smarttem.schema import Axis, Frame
from napari_smarttem.widgets.unmixing_library import PAINTED

from .unmixing_alone import run_alone
from .unmixing_window import opened, rested, session, set_file, shared, truth, unmixed_by_click, window  # noqa: F401

pytestmark = pytest.mark.gui


def painted_by(truth, layer):
    """A few pixels of each kind, as a hand would paint them."""
    kinds, purest = truth.maps.argmax(axis=0), truth.maps.max(axis=0) > 0.95
    paint = np.zeros(layer.data.shape, dtype=layer.data.dtype)
    for kind in range(3):
        rows, columns = np.nonzero((kinds == kind) & purest)
        paint[rows[:12], columns[:12]] = kind + 1
    return paint


@pytest.mark.slow
def test_all_that_was_done_in_the_window_is_done_again_without_one(window, qtbot, set_file, truth, tmp_path):
    dock = opened(window, qtbot, set_file, method="vca", components=3)
    box, library = dock.unmixing.method, dock.unmixing.library
    programs, results = {}, {}

    def keep(name):
        programs[name], results[name] = dock.copy_as_python(), dock.bench.result

    dock.prepare.region.setRegion((230.0, 430.0))
    dock.crop_energy()
    rested(dock, qtbot)
    dock.prepare.pixels.setValue(2)
    dock.bin()
    rested(dock, qtbot)
    unmixed_by_click(dock, qtbot)
    dock.rename(0, "it's mine")
    dock.set_elements(1, ("O", "Fe"))
    dock.components.table.selectRow(2)
    dock.drop_selected()
    keep("edited")

    dock.undo_edit()
    box.setCurrentIndex(box.findData("reference"))
    unmixed_by_click(dock, qtbot)
    keep("components on show")

    for _ in range(2):
        dock.undo_step()
    dock.unmixing.new_labels.click()
    layer = window.layers[dock.unmixing.labels.currentText()]
    layer.data = painted_by(truth, layer)
    box.setCurrentIndex(box.findData("labels"))
    unmixed_by_click(dock, qtbot)
    keep("labels")

    box.setCurrentIndex(box.findData("reference"))
    library.setCurrentIndex(library.findData(PAINTED))
    unmixed_by_click(dock, qtbot)
    keep("means of paint")
    for found, known in zip(dock.bench.result.maps, truth.maps, strict=True):
        assert np.corrcoef(found.ravel(), known.ravel())[0, 1] > 0.99, "painted spectra find their kind everywhere"

    dock.save_result(tmp_path / "known.csv")
    rested(dock, qtbot)
    dock.open_library(tmp_path / "known.csv")
    qtbot.waitUntil(lambda: library.count() == 3, timeout=5000)
    unmixed_by_click(dock, qtbot)
    keep("file")

    dock.compare.method.setCurrentIndex(dock.compare.method.findData("nmf"))
    dock.compare_methods()
    rested(dock, qtbot)
    dock.take_second()
    keep("second")

    (tmp_path / "programs").mkdir()
    again = run_alone(programs, tmp_path / "programs")
    for name, result in results.items():
        assert tuple(again[name]["names"]) == result.names, name
        np.testing.assert_allclose(again[name]["maps"], result.maps, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(again[name]["endmembers"], result.endmembers, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_line_scan_without_its_plural_scattering_is_done_again(window, qtbot, tmp_path):
    """A core loss of two kinds on a line, scattered by a low loss in a file of its own."""
    energy = 300.0 + np.arange(200)
    rng = np.random.default_rng(0)
    edges = np.stack([1e4 * (energy > at) * (energy / at) ** -3.0 + 500 for at in (350.0, 420.0)])
    share = np.linspace(0, 1, 24)[:, None]
    x = Axis(name="x", units="nm", scale=2.0)
    core = Frame(
        data=rng.poisson((1 - share) * edges[0] + share * edges[1]).astype(np.float32),
        axes=(x, Axis(name="energy_loss", units="eV", offset=300.0)),
        signal="EELS",
        metadata={"title": "line"},
    )
    loss = np.arange(-20.0, 300.0)
    low = (
        1e5 * np.exp(-0.5 * (loss / 1.2) ** 2)
        + 2e3 * np.exp(-0.5 * ((loss - 25) / 6) ** 2)
        + 2e4 / np.maximum(loss, 20.0)
    )
    lows = Frame(
        data=rng.poisson(np.tile(low, (24, 1))).astype(np.float32),
        axes=(x, Axis(name="energy_loss", units="eV", offset=-20.0)),
        signal="EELS",
        metadata={"title": "low"},
    )
    from napari_smarttem.widgets.unmixing_steps import Step

    low_file = write(lows, tmp_path / "low.hspy")
    dock = opened(window, qtbot, write(core, tmp_path / "core.hspy"), method="nmf", components=2)
    dock.do_step(Step("deconvolve", {"low_loss": str(low_file)}))
    rested(dock, qtbot)
    assert dock.message.text() == "Removed plural scattering with low.hspy."
    unmixed_by_click(dock, qtbot)
    (tmp_path / "programs").mkdir()
    again = run_alone({"line": dock.copy_as_python()}, tmp_path / "programs")["line"]
    np.testing.assert_allclose(again["maps"], dock.bench.result.maps, atol=1e-5)
