"""Reading: known answers from real files, conventions from made ones, and one clear sentence for whatever cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.io import is_line_scan, is_spectrum_image, read, summed_counts, write
from napari_smarttem.io.calibration import to_our_units
from napari_smarttem.schema import Axis, BadInput, Frame, image_frame


def spectrum_image(shape=(4, 5, 64), seed=0, **metadata):
    counts = np.random.default_rng(seed).poisson(5, shape).astype(np.uint16)
    axes = (
        Axis(name="y", units="nm", scale=0.5, offset=3.0),
        Axis(name="x", units="nm", scale=0.25, offset=-1.0),
        Axis(name="energy_loss", units="eV", scale=0.5, offset=400.0),
    )
    return Frame(data=counts, axes=axes, signal="EELS", metadata=metadata)


def hspy(path, data, axes, metadata=None):
    """A HyperSpy file with axes as given: (name, units, scale, offset, navigate)."""
    with h5py.File(path, "w") as file:
        file.attrs["file_format"], file.attrs["file_format_version"] = "HyperSpy", "3.3"
        group = file.create_group("Experiments/made")
        group["data"] = data
        for index, (name, units, scale, offset, navigate) in enumerate(axes):
            axis = group.create_group(f"axis-{index}").attrs
            axis.update({"name": name, "scale": scale, "offset": offset, "size": data.shape[index]})
            axis.update({"units": units, "navigate": navigate, "_type": "UniformDataAxis"})
        tree = group.create_group("metadata")
        tree.create_group("General").attrs["title"] = "made"
        tree.create_group("Signal").attrs["signal_type"] = (metadata or {}).get("signal_type", "")
        group.create_group("original_metadata")
    return path


# ----------------------------------------------------------------------------------------------- real files


@pytest.mark.real_data
def test_real_eds_map_is_in_nm_and_ev(shared_data):
    (frame,) = read(shared_data / "core_shell.hspy")
    assert frame.signal == "EDS"
    assert is_spectrum_image(frame)
    assert [(a.name, a.units, a.scale) for a in frame.axes] == [
        ("y", "nm", 0.5), ("x", "nm", 0.5), ("energy", "eV", pytest.approx(20.0)),
    ]  # fmt: skip
    assert frame.axes[-1].offset == pytest.approx(160.0)
    assert frame.metadata["high_tension_v"] == 200e3
    assert frame.metadata["elements"] == ["Fe", "Pt"]
    energies = frame.coordinates("energy")
    total = np.asarray(frame.data).sum((0, 1))
    near = (energies > 6200) & (energies < 6600)
    assert abs(energies[near][total[near].argmax()] - 6404) < 40  # the Fe K-alpha line is where nature put it


@pytest.mark.real_data
def test_real_micrometres_become_nm(shared_data):
    (image,) = read(shared_data / "SiO2_HAADF.hspy")
    assert image.signal == "HAADF"
    assert image.axes[0].units == "nm"
    assert image.axes[0].scale == pytest.approx(8.552446, rel=1e-6)
    (line,) = read(shared_data / "LSMO_linescan.hspy")
    assert is_line_scan(line)
    assert [a.name for a in line.axes] == ["x", "energy_loss"]
    assert line.axes[0].scale == pytest.approx(3.219, rel=1e-3)


@pytest.mark.real_data
def test_real_gatan_spectrum_keeps_its_tags(shared_data):
    (frame,) = read(shared_data / "EELS_STO.dm3")
    assert (frame.signal, frame.shape) == ("EELS", (2048,))
    assert frame.axes[0] == Axis(name="energy_loss", units="eV", scale=0.25, offset=350.0)
    facts = frame.metadata
    assert (facts["high_tension_v"], facts["exposure_s"]) == (200e3, 20.0)
    assert (facts["convergence_mrad"], facts["collection_mrad"]) == (30.0, 33.0)
    energies = frame.coordinates("energy_loss")
    ti = (energies > 445) & (energies < 470)
    assert np.asarray(frame.data)[ti].max() > 1.5 * np.asarray(frame.data)[(energies > 440) & (energies < 450)].mean()


@pytest.mark.real_data
def test_real_diffraction_pattern_stays_reciprocal(shared_data):
    (frame,) = read(shared_data / "diffraction_pattern.dm3")
    assert frame.signal == "diffraction"
    assert [(a.name, a.units) for a in frame.axes] == [("k_y", "1/nm"), ("k_x", "1/nm")]


@pytest.mark.real_data
def test_number_without_a_unit_is_no_calibration(shared_data):
    (frame,) = read(shared_data / "stem_abf_data.hspy")
    assert [(a.units, a.scale, a.offset) for a in frame.axes] == [("pixel", 1.0, 0.0)] * 2
    assert frame.metadata["axes_in_file"][0]["scale"] == pytest.approx(0.009326, rel=1e-3)


@pytest.mark.real_data
def test_lazy_reading_gives_the_same_values(shared_data):
    path = shared_data / "core_shell.hspy"
    (eager,), (lazy,) = read(path, lazy=False), read(path, lazy=True)
    assert lazy.is_lazy
    assert not eager.is_lazy
    assert lazy.axes == eager.axes
    np.testing.assert_array_equal(np.asarray(lazy.data[7]), eager.data[7])
    np.testing.assert_array_equal(summed_counts(lazy).data, eager.data.sum(-1))


@pytest.mark.real_data
def test_reading_imports_no_hyperspy(shared_data):
    code = (
        "import sys\nfrom napari_smarttem.io import read\n"
        f"read({str(shared_data / 'core_shell.hspy')!r}); read({str(shared_data / 'EELS_STO.dm3')!r})\n"
        "bad = {'hyperspy', 'exspy', 'matplotlib', 'sklearn', 'skimage', 'napari', 'scipy.optimize'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ------------------------------------------------------------------------------------------------ conventions


def test_spectrum_goes_last_and_descending_axes_are_turned(tmp_path):
    counts = np.arange(3 * 4 * 6).reshape(6, 3, 4)
    axes = [
        ("Energy", "keV", 0.01, 0.2, False), ("height", "Å", 5.0, 10.0, True), ("width", "Å", -5.0, 0.0, True),
    ]  # fmt: skip
    (frame,) = read(hspy(tmp_path / "a.hspy", counts, axes, {"signal_type": "EDS_TEM"}))
    assert frame.shape == (3, 4, 6)
    assert [a.name for a in frame.axes] == ["y", "x", "energy"]
    np.testing.assert_allclose(frame.coordinates("energy"), 200 + 10 * np.arange(6))
    np.testing.assert_allclose(frame.coordinates("y"), [1.0, 1.5, 2.0])
    np.testing.assert_allclose(frame.coordinates("x"), [-1.5, -1.0, -0.5, 0.0])
    # the value at x = -1.5 nm is the one the file stored last
    np.testing.assert_array_equal(frame.data[1, 0], counts[:, 1, 3])


@given(
    st.sampled_from(["nm", "µm", "μm", "um", "Å", "pm", "m", "keV", "eV", "meV", "1/Å", "mrad", "rad", "ms"]),
    st.floats(1e-3, 1e3),
)
def test_units_scale_back_to_what_they_were(unit, value):
    metres = {"nm": 1e-9, "µm": 1e-6, "μm": 1e-6, "um": 1e-6, "Å": 1e-10, "pm": 1e-12, "m": 1.0}
    si = metres | {"keV": 1e3, "eV": 1.0, "meV": 1e-3, "1/Å": 1e10, "mrad": 1e-3, "rad": 1.0, "ms": 1e-3}
    ours = {"nm": 1e-9, "eV": 1.0, "1/nm": 1e9, "mrad": 1e-3, "s": 1.0}
    name, factor = to_our_units(unit)
    assert value * factor * ours[name] == pytest.approx(value * si[unit], rel=1e-12)


@pytest.mark.parametrize("unit", [None, "", "<undefined>", "px", "parsec", 3.0])
def test_unknown_units_are_not_guessed(unit):
    assert to_our_units(unit) is None


def test_unmeasured_pixels_stay_nan_and_are_counted(tmp_path):
    frame = spectrum_image()
    data = frame.data.astype(np.float32)
    data[1] = np.nan
    write(frame.with_data(data), tmp_path / "masked.hspy")
    (back,) = read(tmp_path / "masked.hspy")
    assert back.metadata["non_finite_values"] == 5 * 64
    total = summed_counts(back)
    assert np.isnan(total.data[1]).all()
    np.testing.assert_allclose(total.data[[0, 2, 3]], data[[0, 2, 3]].sum(-1))


def test_summed_counts_needs_a_map():
    with pytest.raises(BadInput, match="not a spectrum image"):
        summed_counts(image_frame(np.ones((3, 3)), pixel_nm=1.0, signal="HAADF"))


def test_large_arrays_stay_on_disk(tmp_path, monkeypatch):
    path = write(spectrum_image(), tmp_path / "a.hspy")
    monkeypatch.setattr(sys.modules["napari_smarttem.io.read"], "LAZY_ABOVE_BYTES", 1000)
    assert read(path)[0].is_lazy
    assert not read(path, lazy=False)[0].is_lazy


def test_metadata_is_json_and_bounded(tmp_path):
    path = hspy(tmp_path / "big.hspy", np.ones((3, 3)), [("y", "nm", 1.0, 0.0, False), ("x", "nm", 1.0, 0.0, False)])
    with h5py.File(path, "a") as file:
        tags = file["Experiments/made/original_metadata"]
        for index in range(5000):
            tags.attrs[f"tag{index}"] = np.nan if index % 2 else "x" * 50
        tags["curve"] = np.arange(100_000)
    (frame,) = read(path)
    text = frame.model_dump_json(exclude={"data"})
    assert len(text) < 500_000
    assert frame.metadata["original"]["original_metadata"]["truncated"] is True


def test_numpy_arrays_are_read_and_pickles_are_not(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(4))
    (frame,) = read(tmp_path / "a.npy")
    assert (frame.shape, frame.axes[0].units) == ((4, 4), "pixel")
    np.save(tmp_path / "b.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadInput, match=r"b\.npy"):
        read(tmp_path / "b.npy")


# -------------------------------------------------------------------------------------------------- bad input


def refused(path, *words):
    with pytest.raises(BadInput) as caught:
        read(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 500
    for word in (path.name, *words):
        assert word in sentence
    return caught.value


def test_bad_input_is_one_sentence(tmp_path):
    refused(tmp_path / "absent.hspy", "does not exist")
    (tmp_path / "empty.dm3").touch()
    refused(tmp_path / "empty.dm3", "empty")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", ".txt", ".hspy")
    (tmp_path / "folder.hspy").mkdir()
    refused(tmp_path / "folder.hspy", "folder")
    (tmp_path / "text.hspy").write_text("not HDF5 at all")
    refused(tmp_path / "text.hspy", "not an HDF5 file")
    (tmp_path / "text.dm3").write_text("not a Gatan file at all, but long enough to look at")
    assert refused(tmp_path / "text.dm3", "damaged").__cause__ is not None
    (tmp_path / "void.zspy").mkdir()
    refused(tmp_path / "void.zspy", "empty folder")
    (tmp_path / "stray.zspy").mkdir()
    (tmp_path / "stray.zspy" / "note.txt").write_text("hello")
    refused(tmp_path / "stray.zspy", "without a dataset", "zarr.json")
    with h5py.File(tmp_path / "other.hspy", "w") as file:
        file["x"] = 1
    refused(tmp_path / "other.hspy")


def test_arrays_without_a_measurement(tmp_path):
    image_axes = [("y", "nm", 1.0, 0.0, False), ("x", "nm", 1.0, 0.0, False)]
    refused(hspy(tmp_path / "nan.hspy", np.full((3, 3), np.nan), image_axes), "no finite value")
    refused(hspy(tmp_path / "zero.hspy", np.ones((0, 3)), image_axes), "empty")
    with h5py.File(hspy(tmp_path / "steps.hspy", np.ones((3, 3)), image_axes), "a") as file:
        file["Experiments/made/axis-1/axis"] = np.array([0.0, 1.0, 5.0])
    refused(tmp_path / "steps.hspy", "unequal steps")


def test_one_bad_dataset_does_not_hide_the_others(tmp_path):
    path = write([spectrum_image(title="good"), spectrum_image(title="worse")], tmp_path / "two.hspy")
    with h5py.File(path, "a") as file:
        data = file["Experiments/worse/data"]
        data[...] = 0
        del file["Experiments/worse/data"]
        file["Experiments/worse/data"] = np.full((4, 5, 64), np.nan)
    (frame,) = read(path)
    assert frame.metadata["title"] == "good"
    assert "no finite value" in frame.metadata["skipped"][0]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_file_without_permission(tmp_path):
    path = write(spectrum_image(), tmp_path / "a.hspy")
    path.chmod(0)
    refused(path, "permissions")


def test_permission_denied_by_the_system(tmp_path, monkeypatch):
    path = write(spectrum_image(), tmp_path / "a.hspy")

    def deny(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", deny)
    refused(path, "permissions")


def outcome(path):
    """Frames, or the sentence that says why there are none; any other exception fails the test."""
    try:
        return read(path), ""
    except BadInput as error:
        return (), str(error)


@pytest.mark.real_data
@given(share=st.floats(0.0, 1.0, exclude_max=True), name=st.sampled_from(["EELS_STO.dm3", "LSMO_linescan.hspy"]))
def test_a_file_cut_anywhere_is_read_or_refused(shared_data, tmp_path_factory, share, name):
    content = (shared_data / name).read_bytes()
    path = tmp_path_factory.mktemp("cut") / name
    path.write_bytes(content[: int(share * len(content))])
    frames, sentence = outcome(path)
    assert all(frame.data.size for frame in frames)
    assert frames or (name in sentence and "\n" not in sentence)


@pytest.mark.real_data
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(["EELS_STO.dm3", "LSMO_linescan.hspy"]))
def test_a_file_with_flipped_bytes_is_read_or_refused(shared_data, tmp_path_factory, seed, name):
    content = np.frombuffer((shared_data / name).read_bytes(), dtype=np.uint8).copy()
    chance = np.random.default_rng(seed)
    places = chance.integers(0, min(len(content), 20_000), 20)
    content[places] = chance.integers(0, 256, 20)
    path = tmp_path_factory.mktemp("flipped") / name
    path.write_bytes(content.tobytes())
    frames, sentence = outcome(path)
    assert frames or (name in sentence and "\n" not in sentence)
