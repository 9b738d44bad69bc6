"""One convention whatever the format: the same image through .mrc, .emd, .tif and .dm-like axes comes out in nm."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from napari_smarttem.io import EXTENSIONS, is_spectrum_image, read
from napari_smarttem.io.calibration import calibrate
from napari_smarttem.schema import BadInput

IMAGE = np.arange(20, dtype=np.float32).reshape(4, 5)


def write_mrc(path, data, pixel_nm):
    """A minimal MRC2014 file: 1024 bytes of header, mode 2 (float32), cell size in Å."""
    planes, rows, columns = data.shape
    header = np.zeros(256, "<i4")
    header[0:3] = header[7:10] = columns, rows, planes
    header[3] = 2
    header.view("<f4")[10:13] = np.array([columns, rows, planes]) * pixel_nm * 10
    header[16:19] = 1, 2, 3
    content = bytearray(header.tobytes())
    content[208:212], content[212:216] = b"MAP ", b"\x44\x44\0\0"
    path.write_bytes(bytes(content) + data.astype("<f4").tobytes())
    return path


@pytest.mark.parametrize("lazy", [False, True])
def test_mrc_is_in_nm(tmp_path, lazy):
    (frame,) = read(write_mrc(tmp_path / "a.mrc", IMAGE[None], 0.2), lazy=lazy)
    assert frame.is_lazy is lazy
    assert [(a.name, a.units, a.scale) for a in frame.axes] == [
        ("y", "nm", pytest.approx(0.2)), ("x", "nm", pytest.approx(0.2)),
    ]  # fmt: skip
    np.testing.assert_array_equal(np.asarray(frame.data), IMAGE)


def test_mrc_stack_has_its_frames_first(tmp_path):
    (frame,) = read(write_mrc(tmp_path / "s.mrc", np.stack([IMAGE, 2 * IMAGE, 3 * IMAGE]), 0.2))
    assert [a.name for a in frame.axes] == ["frame", "y", "x"]
    np.testing.assert_array_equal(frame.data[2], 3 * IMAGE)


@pytest.mark.parametrize(("suffix", "module"), [(".emd", "emd"), (".tif", "tiff")])
def test_micrometres_of_other_formats(tmp_path, suffix, module):
    common = {"units": "µm", "offset": 0.0, "navigate": False}
    axes = [
        common | {"name": "y", "scale": 2e-3, "size": 4, "index_in_array": 0},
        common | {"name": "x", "scale": 2e-3, "size": 5, "index_in_array": 1},
    ]
    metadata = {"General": {"title": "made"}, "Signal": {"signal_type": ""}}
    signal = {"data": IMAGE, "axes": axes, "metadata": metadata, "original_metadata": {}}
    path = tmp_path / f"a{suffix}"
    importlib.import_module(f"rsciio.{module}").file_writer(str(path), signal)
    (frame,) = read(path)
    assert [(a.units, a.scale) for a in frame.axes] == [("nm", pytest.approx(2.0))] * 2
    np.testing.assert_array_equal(frame.data, IMAGE)


def test_every_extension_has_its_reader():
    from napari_smarttem.io.read import _MODULES

    for suffix in EXTENSIONS:
        module = importlib.import_module(f"rsciio.{_MODULES[suffix]}")
        assert callable(module.file_reader)


@pytest.mark.parametrize("suffix", [s for s in EXTENSIONS if s != ".npy"])
@pytest.mark.parametrize("content", [b"\0" * 3000, b"not a microscope file\n" * 40, bytes(range(256)) * 12])
def test_rubbish_is_refused_by_every_format(tmp_path, suffix, content):
    path = tmp_path / f"rubbish{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="rubbish") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_one_pixel_map_is_still_a_map(tmp_path):
    from napari_smarttem.io import write
    from napari_smarttem.schema import Axis, Frame

    axes = (
        Axis(name="y", units="nm", scale=2.0),
        Axis(name="x", units="nm", scale=2.0),
        Axis(name="energy", units="eV"),
    )
    frame = Frame(data=np.ones((1, 1, 16)), axes=axes, signal="EDS")
    (back,) = read(write(frame, tmp_path / "one.hspy"))
    assert is_spectrum_image(back)
    assert back.axes[0].scale == 2.0


def test_spectrum_of_unknown_units_goes_last_when_the_reader_says_so():
    axes = [{"name": None, "units": None}, {"units": "nm", "scale": 1.0}, {"units": "nm", "scale": 1.0}]
    data, ours = calibrate(np.zeros((7, 2, 3)), axes, signal="spectrum", to_spectrum=True, what="a file")
    assert data.shape == (2, 3, 7)
    assert [a.name for a in ours] == ["y", "x", "channel"]
