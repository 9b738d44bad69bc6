"""Writing: what other programs open, whole or not at all, with the mark of what was simulated."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_smarttem.io import read, write, write_table
from napari_smarttem.schema import Axis, BadInput, Frame, image_frame, spectrum_frame


def spectrum_image(signal="EELS", **metadata):
    counts = np.random.default_rng(3).poisson(5, (4, 5, 64)).astype(np.float32)
    counts[0, :2] = np.nan
    name = "energy_loss" if signal == "EELS" else "energy"
    axes = (
        Axis(name="y", units="nm", scale=0.5, offset=3.0),
        Axis(name="x", units="nm", scale=0.25, offset=-1.0),
        Axis(name=name, units="eV", scale=10.0, offset=400.0),
    )
    facts = {"title": "map", "high_tension_v": 200e3, "beam_current_pa": 50.0, "exposure_s": 0.1} | metadata
    return Frame(data=counts, axes=axes, signal=signal, metadata=facts)


def haadf():
    return image_frame(np.arange(12.0).reshape(3, 4), pixel_nm=(2.0, 3.0), origin_nm=(1.0, 5.0), signal="HAADF")


@pytest.mark.parametrize("kind", [".hspy", ".zspy"])
@pytest.mark.parametrize("signal", ["EELS", "EDS"])
def test_hyperspy_opens_it_calibrated_and_masked(tmp_path, kind, signal):
    import hyperspy.api as hs

    frame = spectrum_image(signal, simulated=True, points={"id": ["a", "b"], "y": [1.5, 2.0]})
    write([frame, haadf()], tmp_path / f"run{kind}")
    loaded = {type(one).__name__: one for one in hs.load(tmp_path / f"run{kind}")}
    opened = loaded["EELSSpectrum" if signal == "EELS" else "EDSTEMSpectrum"]
    y, x = opened.axes_manager["y"], opened.axes_manager["x"]
    assert [(y.scale, y.offset, y.units), (x.scale, x.offset, x.units)] == [(0.5, 3.0, "nm"), (0.25, -1.0, "nm")]
    energy = opened.axes_manager.signal_axes[0]
    ev = 1.0 if signal == "EELS" else 1e3
    assert energy.units == ("eV" if signal == "EELS" else "keV")
    assert (energy.scale * ev, energy.offset * ev) == (pytest.approx(10.0), pytest.approx(400.0))
    assert np.isnan(opened.data[0, :2]).all()
    np.testing.assert_array_equal(opened.data, frame.data)
    tem = opened.metadata.Acquisition_instrument.TEM
    assert (tem.beam_energy, tem.beam_current) == (pytest.approx(200.0), pytest.approx(0.05))
    assert "SIMULATED" in opened.metadata.General.title
    assert opened.metadata.napari_smarttem.simulated
    assert list(opened.metadata.napari_smarttem.points.id) == ["a", "b"]
    image = loaded["Signal2D"]
    assert image.axes_manager["x"].scale == 3.0
    assert "SIMULATED" not in image.metadata.General.title


@pytest.mark.parametrize("kind", [".hspy", ".zspy"])
@pytest.mark.parametrize("signal", ["EELS", "EDS"])
def test_what_was_written_is_read_back(tmp_path, kind, signal):
    frames = spectrum_image(signal, simulated=True), haadf()
    write(frames, tmp_path / f"a{kind}")
    back = {frame.signal: frame for frame in read(tmp_path / f"a{kind}")}
    for frame in frames:
        again = back[frame.signal]
        np.testing.assert_array_equal(again.data, frame.data)
        for axis, other in zip(frame.axes, again.axes, strict=True):
            assert (axis.name, axis.units) == (other.name, other.units)
            np.testing.assert_allclose([other.scale, other.offset], [axis.scale, axis.offset], rtol=1e-12)
    assert back[signal].metadata["simulated"] is True
    assert back[signal].metadata["high_tension_v"] == pytest.approx(200e3)
    assert "simulated" not in back["HAADF"].metadata


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(-1e6, 1e6) | st.text("abc µ/.", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    data=arrays(np.float32, st.tuples(st.integers(2, 4), st.integers(2, 4)), elements=st.floats(-1e6, 1e6, width=32)),
    scale=st.floats(1e-3, 1e3),
    offset=st.floats(-1e4, 1e4),
    extra=st.dictionaries(st.text("klm", min_size=1, max_size=3), _json, max_size=3),
)
def test_any_image_and_any_metadata_survive(tmp_path_factory, data, scale, offset, extra):
    frame = image_frame(data, pixel_nm=scale, origin_nm=(offset, -offset), signal="BF", metadata={"extra": extra})
    (back,) = read(write(frame, tmp_path_factory.mktemp("any") / "a.hspy"))
    np.testing.assert_array_equal(back.data, data)
    for axis, other in zip(frame.axes, back.axes, strict=True):
        np.testing.assert_allclose([other.scale, other.offset], [axis.scale, axis.offset], rtol=1e-12)
    assert back.metadata["original"]["metadata"]["napari_smarttem"]["extra"] == extra


def test_ome_zarr_says_nanometres(tmp_path):
    write([haadf()], tmp_path / "image.ome.zarr")
    root = zarr.open_group(tmp_path / "image.ome.zarr", mode="r")
    ome = root.attrs["ome"]
    assert ome["version"] == "0.5"
    (scales,) = ome["multiscales"]
    assert [(a["name"], a["type"], a["unit"]) for a in scales["axes"]] == [
        ("y", "space", "nanometer"), ("x", "space", "nanometer"),
    ]  # fmt: skip
    transforms = {t["type"]: t[t["type"]] for t in scales["datasets"][0]["coordinateTransformations"]}
    assert transforms == {"scale": [2.0, 3.0], "translation": [1.0, 5.0]}
    np.testing.assert_array_equal(root["0"][:], haadf().data)


def test_ome_zarr_of_several_has_space_last(tmp_path):
    frame = spectrum_image(simulated=True)
    write([frame, haadf()], tmp_path / "run.ome.zarr")
    root = zarr.open_group(tmp_path / "run.ome.zarr", mode="r")
    assert root.attrs["ome"]["bioformats2raw.layout"] == 3
    assert root["OME"].attrs["ome"]["series"] == ["0", "1"]
    scales = root["0"].attrs["ome"]["multiscales"][0]
    assert [a["name"] for a in scales["axes"]] == ["energy_loss", "y", "x"]
    assert "SIMULATED" in scales["name"]
    np.testing.assert_array_equal(root["0/0"][:], np.moveaxis(frame.data, -1, 0))


def test_spectra_as_columns(tmp_path):
    spectra = [spectrum_frame(np.arange(4) * k, dispersion_ev=0.5, offset_ev=100.0, signal="EELS") for k in (1, 2)]
    write(spectra, tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(newline="") as file:
        head, *rows = list(csv.reader(file))
    assert head[0] == "energy_loss (eV)"
    np.testing.assert_array_equal(np.array(rows, float), [[100, 0, 0], [100.5, 1, 2], [101, 2, 4], [101.5, 3, 6]])


def test_table_keeps_every_column(tmp_path):
    write_table([{"a": 1}, {"a": 2, "b": "x, y"}], tmp_path / "t.csv", columns=("id",))
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "a", "b"], ["", "1", ""], ["", "2", "x, y"]]


@pytest.mark.parametrize("kind", [".hspy", ".zspy", ".ome.zarr"])
def test_nothing_is_overwritten_unless_asked(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    write(haadf(), path)
    before = sorted((p.relative_to(tmp_path), p.stat().st_mtime_ns) for p in path.rglob("*"))
    with pytest.raises(BadInput, match="exists already"):
        write(spectrum_image(), path)
    assert before == sorted((p.relative_to(tmp_path), p.stat().st_mtime_ns) for p in path.rglob("*"))
    write(spectrum_image(), path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if kind != ".ome.zarr":
        assert read(path)[0].signal == "EELS"


@pytest.mark.parametrize("kind", [".hspy", ".zspy", ".ome.zarr", ".csv"])
def test_failed_writing_leaves_nothing(tmp_path, kind, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("h5py.Group.create_dataset", full)
    monkeypatch.setattr("zarr.Group.create_array", full)
    monkeypatch.setattr("csv.writer", full)
    frame = spectrum_frame(np.arange(4), dispersion_ev=1, offset_ev=0, signal="EELS") if kind == ".csv" else haadf()
    with pytest.raises(BadInput, match="No space left on device"):
        write(frame, tmp_path / f"a{kind}")
    assert not list(tmp_path.iterdir())


def test_bad_requests_are_one_sentence(tmp_path):
    with pytest.raises(BadInput, match=r"must end in \.hspy"):
        write(haadf(), tmp_path / "a.xyz")
    with pytest.raises(BadInput, match="Nothing to write"):
        write([], tmp_path / "a.hspy")
    with pytest.raises(BadInput, match="share one energy axis"):
        write(haadf(), tmp_path / "a.csv")
    with pytest.raises(BadInput, match="OME-Zarr holds images"):
        write(spectrum_frame(np.arange(4), dispersion_ev=1, offset_ev=0, signal="EELS"), tmp_path / "a.ome.zarr")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"):
        write(haadf(), tmp_path / "file" / "a.hspy")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
