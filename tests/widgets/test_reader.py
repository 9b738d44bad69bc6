"""napari's reader without a window: what is ours, the layers that come, and the sentence where none can."""

from __future__ import annotations

import subprocess
import sys
import time

import npe2
import numpy as np
import pytest
from npe2 import PluginManifest

from napari_smarttem.io import write
from napari_smarttem.schema import Axis, BadInput, Frame, TargetState, image_frame, spectrum_frame
from napari_smarttem.widgets import layers
from napari_smarttem.widgets.reader import FILES, FOLDERS, contents_of, get_reader, read_layers

from ..io.test_export import FIELD, PIXEL_NM, make_run


def spectrum_image(shape=(6, 8, 32), **metadata):
    counts = np.random.default_rng(0).poisson(5, shape).astype(np.uint16)
    axes = (
        Axis(name="y", units="nm", scale=0.5, offset=3.0),
        Axis(name="x", units="nm", scale=0.25, offset=-1.0),
        Axis(name="energy_loss", units="eV", scale=0.5, offset=400.0),
    )
    return Frame(data=counts, axes=axes, signal="EELS", metadata={"title": "map"} | metadata)


@pytest.fixture
def manifest():
    return PluginManifest.from_distribution("napari-smarttem")


def test_manifest_is_valid_and_its_names_exist(manifest):
    assert manifest.display_name == manifest.name == "napari-smarttem"
    manifest.validate_imports()
    patterns = {p for reader in manifest.contributions.readers for p in reader.filename_patterns}
    assert patterns == {f"*{suffix}" for suffix in (*FILES, *FOLDERS)}
    docks = [w.display_name for w in manifest.contributions.widgets]
    assert docks[:4] == ["Instrument", "Acquisition", "Spectrum", "Angle plane"]
    assert "Unmixing" in docks
    assert len(set(docks)) == len(docks)


def test_only_what_is_ours(tmp_path):
    for folder in ("plain", "x.hspy", "run.smarttem", "map.zspy"):
        (tmp_path / folder).mkdir()
    ours = [str(tmp_path / name) for name in ("run.smarttem", "map.zspy", "A.DM3", "b.hspy")]
    others = [str(tmp_path / name) for name in ("plain", "x.hspy", "picture.tif", "array.npy", "noext")]
    assert all(get_reader(path) is read_layers for path in ours)
    assert not any(get_reader(path) for path in others)
    assert get_reader(ours) is read_layers
    assert get_reader([*ours, others[0]]) is None
    assert get_reader([]) is None


def test_refusing_a_folder_is_immediate(tmp_path):
    for index in range(300):
        (tmp_path / f"{index}.hspy").touch()
    began = time.perf_counter()
    for _ in range(200):
        get_reader(str(tmp_path))
    assert (time.perf_counter() - began) / 200 < 1e-3


def test_importing_the_reader_is_light():
    code = (
        "import sys, napari_smarttem.widgets.reader\n"
        "bad = {'hyperspy', 'rsciio', 'dask', 'h5py', 'qtpy', 'napari', 'zarr', 'pydantic'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_spectrum_image_becomes_its_overview(tmp_path):
    frame = spectrum_image(simulated=True)
    path = write(frame, tmp_path / "map.hspy")
    ((data, arguments, kind),) = read_layers(str(path))
    assert kind == "image"
    np.testing.assert_array_equal(data, frame.data.sum(-1))
    assert arguments["scale"] == (0.5, 0.25)
    assert arguments["translate"] == (3.0, -1.0)
    assert arguments["units"] == ("nm", "nm")
    assert arguments["axis_labels"] == ("y", "x")
    assert layers.SIMULATED_MARK in arguments["name"]
    about = arguments["metadata"]["smarttem"]
    assert (about["path"], about["kind"], about["dataset"]) == (str(path), "spectrum_image", 0)


def test_several_files_at_once(tmp_path):
    image = image_frame(np.eye(5), pixel_nm=2.0, signal="HAADF")
    paths = [str(write(image, tmp_path / f"{name}.hspy")) for name in "ab"]
    assert len(read_layers(paths)) == 2


def test_spectra_alone_are_handled_without_a_layer(tmp_path):
    path = write(spectrum_frame(np.arange(9.0), dispersion_ev=1, offset_ev=0, signal="EELS"), tmp_path / "s.hspy")
    assert read_layers(str(path)) == [(None,)]
    contents = contents_of(path)
    assert (contents.layers, contents.patterns, contents.spectral) == ([], [], True)


def test_reciprocal_pattern_does_not_bring_its_units(tmp_path):
    axes = (Axis(name="k_y", units="1/nm", scale=0.1), Axis(name="k_x", units="1/nm", scale=0.1))
    path = write(Frame(data=np.eye(8), axes=axes, signal="diffraction"), tmp_path / "dp.hspy")
    ((_, arguments, _),) = read_layers(str(path))
    assert arguments["units"] == ("pixel", "pixel")
    assert arguments["metadata"]["smarttem"]["calibration"]["units"] == ["1/nm", "1/nm"]
    assert arguments["metadata"]["smarttem"]["calibration"]["scale"] == [0.1, 0.1]


def test_stack_keeps_every_dimension(tmp_path):
    axes = (Axis(name="frame"), Axis(name="y", units="nm", scale=2.0), Axis(name="x", units="nm", scale=2.0))
    path = write(Frame(data=np.zeros((3, 4, 5)), axes=axes, signal="HAADF"), tmp_path / "stack.hspy")
    ((data, arguments, _),) = read_layers(str(path))
    assert data.shape == (3, 4, 5)
    assert len(arguments["scale"]) == 3


def test_run_folder_shows_overview_and_targets(tmp_path):
    path = make_run(tmp_path / "night", [(1, 1), (2, 2), (3, 3)], rejected={1}, failed={2})
    image, points = read_layers(str(path))
    assert image[2] == "image"
    assert image[1]["translate"] == (FIELD.y_nm + PIXEL_NM / 2, FIELD.x_nm + PIXEL_NM / 2)
    assert layers.SIMULATED_MARK in image[1]["name"]
    assert points[2] == "points"
    assert list(points[1]["features"]["state"]) == ["done", "rejected", "failed"]
    codes = layers.state_codes([TargetState.DONE, TargetState.REJECTED, TargetState.FAILED])
    np.testing.assert_array_equal(points[1]["face_color"], layers.state_colors(codes))
    # overview and targets share one place: the first target lies on the centre of its overview pixel
    np.testing.assert_allclose((points[0][0] - image[1]["translate"]) / image[1]["scale"], [1, 1])


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "cut.hspy").write_bytes(b"\x89HDF\r\n\x1a\nrubbish")
    (tmp_path / "void.smarttem").mkdir()
    for name in ("cut.hspy", "void.smarttem", "absent.dm4"):
        with pytest.raises(BadInput, match=name):
            read_layers(str(tmp_path / name))


@pytest.mark.real_data
def test_npe2_reads_without_a_window(shared_data):
    npe2.PluginManager.instance().discover()
    layer_data = npe2.read([str(shared_data / "core_shell.hspy")], stack=False, plugin_name="napari-smarttem")
    ((data, arguments, _),) = layer_data
    assert data.shape == (64, 64)
    assert arguments["units"] == ("nm", "nm")


def test_samples_are_layers_in_nm_and_say_they_are_simulated(manifest):
    for sample in manifest.contributions.sample_data:
        command = next(c for c in manifest.contributions.commands if c.id == sample.command)
        module, name = command.python_name.split(":")
        made = getattr(__import__(module, fromlist=[name]), name)()
        ((data, arguments, kind),) = made
        assert kind == "image"
        assert arguments["units"] == ("nm", "nm")
        assert layers.SIMULATED_MARK in arguments["name"]
        assert np.ptp(data) > 0
