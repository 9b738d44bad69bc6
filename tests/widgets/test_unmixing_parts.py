"""What the Unmixing dock is made of, without a window: sums, steps, places, scripts, pictures."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_smarttem.schema import Axis, BadInput
from napari_smarttem.widgets import unmixing_lines
from napari_smarttem.widgets.unmixing_bench import Bench, Unmixed
from napari_smarttem.widgets.unmixing_canvas import Canvas
from napari_smarttem.widgets.unmixing_input import Choice, Spectra, choices, gathered, load
from napari_smarttem.widgets.unmixing_library import Known
from napari_smarttem.widgets.unmixing_picture import composite, draw_picture, scale_bar_length
from napari_smarttem.widgets.unmixing_plots import residual_sigma
from napari_smarttem.widgets.unmixing_script import as_python
from napari_smarttem.widgets.unmixing_steps import Preparation, Step
from napari_smarttem.widgets.unmixing_sums import WindowSums, channels_between

from .unmixing_alone import run_alone
from .unmixing_sets import mixed

# ------------------------------------------------------------------------------------------------------------ sums


@pytest.mark.parametrize("step", [1, 7, 16, 500])
def test_every_window_is_the_sum_of_its_channels(rng, step):
    data = rng.poisson(5, (3, 4, 101)).astype(np.float32)
    sums = WindowSums(data, step)
    for first, last in ((0, 101), (3, 4), (13, 17), (15, 33), (16, 32), (50, 50), (90, 101), (-5, 300)):
        assert np.array_equal(sums.window(first, last), data[:, :, max(0, first) : last].sum(axis=-1, dtype=float))


def test_values_that_are_missing_count_as_zero(rng):
    data = rng.random((2, 2, 40))
    data[0, 0, 5] = np.nan
    sums = WindowSums(data)
    assert sums.window(0, 40)[0, 0] == pytest.approx(np.nansum(data[0, 0]))
    assert sums.window(20, 40)[0, 0] == pytest.approx(data[0, 0, 20:].sum())


def test_the_table_of_sums_is_bounded(rng, monkeypatch):
    from napari_smarttem.widgets import unmixing_sums

    monkeypatch.setattr(unmixing_sums, "LARGEST_TABLE_BYTES", 4 * 4 * 8 * 6)
    data = rng.random((4, 4, 256))
    sums = WindowSums(data)
    assert sums._table.nbytes <= 4 * 4 * 8 * 7
    assert np.allclose(sums.window(17, 201), data[:, :, 17:201].sum(axis=-1))


def test_channels_between_energies_have_their_centres_inside():
    axis = Axis(name="energy", units="eV", scale=2.0, offset=100.0)
    assert channels_between(axis, 50, 104.0, 110.0) == (2, 6)
    assert channels_between(axis, 50, 104.1, 109.9) == (3, 5)
    assert channels_between(axis, 50, -1e6, 1e6) == (0, 50)
    assert channels_between(axis, 50, 900.0, 950.0) == (50, 50)
    falling = Axis(name="energy", units="eV", scale=-2.0, offset=198.0)
    assert channels_between(falling, 50, 104.0, 110.0) == (44, 48)


# ----------------------------------------------------------------------------------------------------------- steps


def test_steps_keep_calibration_and_counts_and_are_undone(rng):
    truth = mixed(shape=(9, 10), channels=64)
    preparation = Preparation(truth.frame)
    before = np.asarray(truth.frame.data)
    for step in (
        Step("crop_energy", {"first_ev": 220.0, "last_ev": 345.0}),
        Step("crop_area", {"top": 1, "bottom": 9, "left": 2, "right": 10}),
        Step("bin", {"y": 2, "x": 2, "energy": 4}),
    ):
        preparation.accept(step, preparation.apply(step))
    frame = preparation.frame
    energy = truth.frame.coordinates("energy_loss")
    kept = np.flatnonzero((energy >= 220.0) & (energy <= 345.0))[: frame.shape[-1] * 4]
    expected = before[1:9, 2:10][:, :, kept]
    assert frame.data.sum() == pytest.approx(expected.sum())
    assert frame.shape[:2] == (4, 4)
    # the centre of a binned pixel is the mean of the centres it holds
    assert frame.coordinates("y")[0] == pytest.approx(truth.frame.coordinates("y")[1:3].mean())
    assert frame.coordinates("energy_loss")[0] == pytest.approx(energy[kept[:4]].mean())
    assert [str(step)[:4] for step in preparation.steps] == ["kept", "kept", "summ"]
    assert [step["step"] for step in frame.metadata["preparation"]] == ["crop_energy", "crop_area", "bin"]
    for _ in range(3):
        assert preparation.undo()
    assert not preparation.undo()
    assert preparation.frame is truth.frame


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step("crop_energy", {"first_ev": 5000.0, "last_ev": 6000.0}), "there are 0 channels"),
        (Step("crop_area", {"top": 90, "bottom": 99, "left": 0, "right": 9}), "are not inside"),
        (Step("bin", {"y": 64, "x": 64, "energy": 1}), "Cannot bin"),
        (Step("polish", {}), "no preparation step"),
    ],
)
def test_steps_that_cannot_be_done_say_why(step, words):
    preparation = Preparation(mixed(shape=(6, 6), channels=32).frame)
    with pytest.raises(BadInput, match=words) as caught:
        preparation.apply(step)
    assert str(caught.value).strip().count("\n") == 0


def test_steps_can_be_repeated_on_data_that_have_grown():
    small, large = mixed(shape=(4, 6), channels=32), mixed(shape=(8, 6), channels=32)
    preparation = Preparation(small.frame)
    step = Step("bin", {"y": 2, "x": 2, "energy": 2})
    preparation.accept(step, preparation.apply(step))
    again = preparation.repeated(large.frame)
    assert again.steps == [step]
    assert again.frame.shape == (4, 3, 16)


# ---------------------------------------------------------------------------------------------------------- places


def test_maps_lie_where_the_data_lie():
    axes = (Axis(name="y", units="nm", scale=2.0, offset=10.0), Axis(name="x", units="nm", scale=2.0, offset=-6.0))
    canvas = Canvas(axes, (5, 7))
    assert canvas.place(2, 3) == (14.0, 0.0)
    assert canvas.pixel(1.6, 3.4) == (2, 3)
    assert canvas.pixel(-0.7, 0.0) is None
    assert canvas.pixel(0.0, 7.2) is None


def test_a_line_scan_is_a_band_of_the_right_length():
    along = Axis(name="x", units="nm", scale=0.5, offset=0.0)
    canvas = Canvas((along, along), (1, 40))
    assert canvas.axes[1] == along
    assert canvas.axes[0].scale == pytest.approx(2.5)  # 20 nm long
    assert canvas.axes[0].units == "nm"


def test_spectra_of_a_run_colour_their_surroundings(rng):
    places = np.array([[0.0, 0.0], [0.0, 30.0], [30.0, 0.0], [30.0, 30.0]])
    canvas = Canvas((), (1, 4), places)
    image = np.asarray(canvas.image(np.array([[1.0, 2.0, 3.0, 4.0]]), "map", {}).data)
    assert image.shape == canvas.drawn_shape
    assert np.isnan(image).any()
    for number, place in enumerate(places):
        row, column = (axis.index(p) for axis, p in zip(canvas.axes, place, strict=True))
        assert canvas.pixel(row, column) == (0, number)
        assert image[round(row), round(column)] == number + 1
        assert canvas.place(0, number) == tuple(place)


# ----------------------------------------------------------------------------------------------------------- input


def test_plain_arrays_of_layers_can_be_unmixed(rng):
    from napari.components import ViewerModel

    viewer = ViewerModel()
    viewer.add_image(np.zeros((8, 8)), name="not spectra")
    layer = viewer.add_image(rng.random((6, 7, 30)), name="cube", scale=(2.0, 2.0, 0.5), translate=(0, 0, 100.0))
    found = choices(viewer, [], None)
    assert [choice.title for choice in found] == ["cube (layer)"]
    spectra = load(found[0])
    assert spectra.frame.shape == (6, 7, 30)
    assert spectra.frame.axes[2].offset == 100.0
    viewer.layers.remove(layer)
    del layer
    assert choices(viewer, [], None) == []


def test_files_without_spectrum_images_are_refused_in_one_sentence(tmp_path):
    from napari_smarttem.io import write
    from napari_smarttem.schema import image_frame

    path = write(image_frame(np.ones((5, 5)), pixel_nm=1.0, signal="HAADF"), tmp_path / "image.hspy")
    with pytest.raises(BadInput, match="holds no spectrum image"):
        load(Choice("image", "file", path))


def test_a_truncated_file_is_refused_in_one_sentence(tmp_path):
    from napari_smarttem.io import write

    whole = write(mixed(shape=(6, 6), channels=64).frame, tmp_path / "whole.hspy")
    broken = tmp_path / "broken.hspy"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(BadInput, match=r"broken\.hspy"):
        load(Choice("broken", "file", broken))


def test_spectra_on_another_axis_are_left_out_of_a_run():
    from napari_smarttem.schema import spectrum_frame

    usual = [spectrum_frame(np.full(8, i), dispersion_ev=1.0, offset_ev=5.0, signal="EELS") for i in range(3)]
    other = spectrum_frame(np.ones(9), dispersion_ev=1.0, offset_ev=5.0, signal="EELS")
    spectra = gathered("run", [usual[0], other, *usual[1:]], np.arange(8.0).reshape(4, 2))
    assert spectra.frame.shape == (1, 3, 8)
    assert spectra.places_nm.tolist() == [[0, 1], [4, 5], [6, 7]]
    assert "3 spectra" in spectra.facts
    with pytest.raises(BadInput, match="no spectrum yet"):
        gathered("run", [], np.zeros((0, 2)))


# ------------------------------------------------------------------------------------------------ lines and words


def test_lines_of_iron_lie_where_iron_has_them():
    lines = unmixing_lines.lines_of(["Fe"], "EDS", 0.0, 10_000.0)
    assert {"Fe Ka": 6404, "Fe La": 704}.items() <= {line.name: round(line.energy_ev) for line in lines}.items()
    edges = unmixing_lines.lines_of(["Ti", "O"], "EELS", 400.0, 600.0)
    assert {line.name for line in edges} >= {"O K", "Ti L3"}
    assert [line.energy_ev for line in edges] == sorted(line.energy_ev for line in edges)


def test_what_lies_near_an_energy_is_offered_nearest_first():
    near = unmixing_lines.lines_near(6400.0, "EDS", 60.0)
    assert near[0].element == "Fe"
    assert all(abs(line.energy_ev - 6400.0) <= 60.0 for line in near)
    assert len({line.element for line in near}) == len(near)


def test_element_symbols_are_read_as_people_write_them():
    assert unmixing_lines.known_symbols("fe, PT + o Fe") == ("Fe", "Pt", "O")
    with pytest.raises(BadInput, match="'Xx' is no element"):
        unmixing_lines.known_symbols("Fe Xx")


# --------------------------------------------------------------------------------------------------- script, figure


@pytest.fixture(scope="module")
def worked():
    """A set with its result, and where it came from."""
    from napari_smarttem.unmixing import unmix

    truth = mixed()
    return truth, unmix(truth.frame, method="vca", components=3, seed=1)


def test_the_python_copy_runs_alone_and_makes_the_same_result(worked, tmp_path):
    """Steps, paint and edits, in a Python of its own without a display."""
    from napari_smarttem.io import write
    from napari_smarttem.unmixing import unmix
    from napari_smarttem.unmixing.prepare_paint import paint_of

    truth, _ = worked
    path = write(truth.frame, tmp_path / "set.hspy")
    spectra = load(Choice("set", "file", path))
    preparation = Preparation(spectra.frame)
    step = Step("crop_energy", {"first_ev": 210.0, "last_ev": 400.0})
    preparation.accept(step, preparation.apply(step))
    prepared = Spectra("set", preparation.frame, path, spectra.dataset)
    labels = np.where(truth.maps.max(axis=0) > 0.97, truth.maps.argmax(axis=0) + 1, 0)
    programs, results = {}, {}
    for name, settings in {
        "edited": {"method": "vca", "components": 3, "seed": 1},
        "painted": {"method": "labels", "components": "auto", "seed": 0, "labels": labels},
    }.items():
        result = unmix(preparation.frame, **settings).renamed(1, "it's the rim").dropped(2)
        known = Known(paint=paint_of(labels)) if name == "painted" else Known()
        programs[name] = as_python(Unmixed(prepared, (step,), settings, None, known), result.provenance)
        results[name] = result
    again = run_alone(programs, tmp_path)
    for name, result in results.items():
        assert tuple(again[name]["names"]) == result.names
        np.testing.assert_allclose(again[name]["maps"], result.maps, atol=1e-5)


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_figure_is_written(worked, tmp_path, ending):
    _, result = worked
    lines = [[unmixing_lines.Line("C", "C K", 284.0, 1.0)]] * 3
    canvas = Canvas(result.axes[:2], result.shape)
    colors = ("#ff0000", "#00ff00", "#0000ff")
    arguments = {"colors": colors, "lines": lines, "title": "a set", "simulated": True}
    path = draw_picture(result, canvas, tmp_path / f"figure{ending}", visible=(True, False, True), **arguments)
    assert path.stat().st_size > 5000
    if ending == ".svg":
        text = path.read_text(encoding="utf-8")
        assert "#ff0000" in text
        assert "#00ff00" not in text, "a hidden component is not in the figure"
    with pytest.raises(BadInput, match="No component is visible"):
        draw_picture(result, canvas, tmp_path / "none.png", visible=(False,) * 3, **arguments)
    with pytest.raises(BadInput, match="is written as"):
        draw_picture(result, canvas, tmp_path / "figure.bmp", visible=(True,) * 3, **arguments)


def test_a_composite_adds_colours():
    one, other = np.array([[1.0, 0.0]]), np.array([[1.0, np.nan]])
    image = composite([one, other], ["#ff0000", "#00ff00"])
    assert image[0, 0] == pytest.approx([1, 1, 0], abs=0.01)
    assert image[0, 1] == pytest.approx([0, 0, 0], abs=0.01)


@pytest.mark.parametrize(("width", "length"), [(100.0, 20.0), (8.0, 2.0), (0.9, 0.2), (2047.0, 500.0)])
def test_scale_bars_are_round(width, length):
    assert scale_bar_length(width) == pytest.approx(length)


def test_residuals_are_in_standard_deviations(rng):
    model = np.full(20_000, 9.0)
    data = rng.poisson(model).astype(float)
    assert residual_sigma(data, model).std() == pytest.approx(1.0, abs=0.03)
    assert residual_sigma(data - 20.0, model - 20.0).std() == pytest.approx(1.0, abs=0.03)


# ----------------------------------------------------------------------------------------------------------- bench


def test_the_maps_of_a_window_add_up(worked):
    from napari.components import ViewerModel

    truth, result = worked
    bench = Bench(ViewerModel())
    data = np.asarray(truth.frame.data)
    bench.found(result, Unmixed(Spectra("set", truth.frame), (), {}, WindowSums(data)))
    maps = {of: bench.window_map(250.0, 300.0, of) for of in ("data", "model", "data − model")}
    assert np.allclose(maps["data"] - maps["model"], maps["data − model"])
    energy = truth.frame.coordinates("energy_loss")
    assert np.array_equal(maps["data"], data[:, :, (energy >= 250) & (energy <= 300)].sum(axis=-1, dtype=float))
    assert np.corrcoef(maps["data"].ravel(), maps["model"].ravel())[0, 1] > 0.9


def test_a_run_that_grows_keeps_its_colours(worked):
    from napari.components import ViewerModel

    truth, result = worked
    bench = Bench(ViewerModel())
    unmixed = Unmixed(Spectra("set", truth.frame), (), {}, None)
    bench.found(result, unmixed)
    bench.change_look(visible=(True, False, True))
    shown = bench.follow(result.reordered([2, 0, 1]), unmixed)
    assert np.allclose(shown.result.endmembers, result.endmembers)
    assert shown.visible == (True, False, True)
