"""Recordings as they come: several datasets in a file, other formats, files too large for memory."""

from __future__ import annotations

import threading

import h5py
import numpy as np
import pytest
import rsciio.emd
import rsciio.hspy

from napari_smarttem.backends import recording, registry
from napari_smarttem.io import read
from napari_smarttem.io.write import write
from napari_smarttem.schema import BadInput
from tests.recordings import axis, write_recording

NEVER = threading.Event()


def connect(path, **settings):
    return registry.connect("replay", file=str(path), **settings)


def spectrum_axes(rows, columns, channels, *, pixel=1.0, units="eV", energy=1.0):
    return [
        axis("y", rows, pixel, "nm", True),
        axis("x", columns, pixel, "nm", True),
        axis("Energy loss", channels, energy, units, False),
    ]


def image_axes(rows, columns, *, pixel=1.0):
    return [axis("y", rows, pixel, "nm", False), axis("x", columns, pixel, "nm", False)]


def merged(path, parts):
    """One ``.hspy`` file with the datasets of several."""
    with h5py.File(path, "w") as file:
        for number, part in enumerate(parts):
            with h5py.File(part) as source:
                for key, value in source.attrs.items():
                    file.attrs[key] = value
                group = source["Experiments"]
                name = next(iter(group))
                file.require_group("Experiments")
                group.copy(name, file["Experiments"], name=f"{number} {name}")
    return path


@pytest.fixture
def several(tmp_path, rng):
    """Two surveys of the field, an image of another field, a low-loss and a core-loss map."""
    images = {
        "BF": rng.integers(0, 99, (6, 8)),
        "HAADF": rng.integers(0, 99, (6, 8)),
        "HAADF again": rng.integers(0, 99, (12, 16)),
        "overview BF": rng.integers(0, 99, (30, 30)),
    }
    parts = []
    for name, data in images.items():
        axes = image_axes(*data.shape, pixel={30: 10.0, 12: 0.5}.get(data.shape[0], 1.0))
        parts.append(write_recording(tmp_path / f"{name}.hspy", data, axes, signal_type=""))
    for name, channels in (("low loss", 8), ("core loss", 20)):
        data = rng.poisson(20, (6, 8, channels)).astype(np.uint16)
        parts.append(write_recording(tmp_path / f"{name}.hspy", data, spectrum_axes(6, 8, channels)))
        images[name] = data
    return merged(tmp_path / "several.hspy", parts), images


def test_surveys_of_the_same_field_are_found(several):
    path, images = several
    replay = connect(path)
    assert replay.scanner.signals == ("HAADF", "HAADF 2", "BF", "EELS sum")
    frames = replay.scanner.scan(
        field=replay.scanner.field, shape=(12, 16), dwell_s=1e-6, signals=replay.scanner.signals, cancel=NEVER
    )
    np.testing.assert_array_equal(frames[1].data, images["HAADF again"])
    np.testing.assert_array_equal(frames[2].data[::2, ::2], images["BF"])


def test_the_largest_map_is_taken_and_another_can_be(several):
    path, images = several
    assert connect(path).spectrometer.channels == 20
    replay = connect(path, dataset="low loss")
    assert replay.spectrometer.channels == 8
    replay.scanner.move_probe(2.0, 5.0)
    np.testing.assert_array_equal(replay.spectrometer.acquire_spectrum(1.0, NEVER).data, images["low loss"][2, 5])
    again = registry.connect("replay", **replay.info.settings)
    assert again.spectrometer.channels == 8
    with pytest.raises(BadInput, match="no spectrum image 'HAADF'; it holds 0: "):
        connect(path, dataset="HAADF")


@pytest.mark.parametrize("suffix", [".hspy", ".zspy", ".emd"])
def test_other_formats_are_the_same_instrument(tmp_path, rng, suffix):
    data = rng.poisson(20, (6, 8, 12)).astype(np.uint16)
    source = write_recording(tmp_path / "source.hspy", data, spectrum_axes(6, 8, 12))
    path = tmp_path / f"copy{suffix}"
    if suffix == ".emd":
        rsciio.emd.file_writer(str(path), rsciio.hspy.file_reader(str(source))[0])
    else:
        write(read(source), path)
    replay = connect(path)
    assert replay.spectrometer.channels == 12
    assert replay.scanner.native_shape == (6, 8)
    replay.scanner.move_probe(4.0, 7.0)
    np.testing.assert_array_equal(replay.spectrometer.acquire_spectrum(1.0, NEVER).data, data[4, 7])


class Disk:
    """A lazy array that counts what is read from it."""

    def __init__(self, data, chunks):
        self.data, self.chunks = data, chunks
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim
        self.values_read = 0

    def __getitem__(self, index):
        piece = self.data[index]
        self.values_read += piece.size
        return piece


class TestLargeFiles:
    @pytest.fixture
    def replay(self, tmp_path, rng):
        data = rng.poisson(20, (6, 8, 10)).astype(np.uint16)
        replay = connect(write_recording(tmp_path / "large.hspy", data, spectrum_axes(6, 8, 10)))
        disk = Disk(data, ((4, 2), (4, 4), (10,)))
        replay.recording.spectra = replay.recording.spectra.model_copy(update={"data": disk})
        return replay, disk

    def read(self, replay, row, column):
        replay.scanner.move_probe(row, column)
        return replay.spectrometer.acquire_spectrum(1.0, NEVER).data

    def test_a_block_is_read_once(self, replay):
        replay, disk = replay
        for row, column in ((0, 0), (3, 3), (5, 7), (4, 4), (1, 2)):
            np.testing.assert_array_equal(self.read(replay, row, column), disk.data[row, column])
        assert disk.values_read == (16 + 8) * 10

    def test_the_last_blocks_are_kept(self, replay, monkeypatch):
        replay, disk = replay
        monkeypatch.setattr(recording, "_CACHE_BYTES", 16 * 10 * 2)
        for row, column in ((0, 0), (0, 4), (0, 0), (0, 1)):
            np.testing.assert_array_equal(self.read(replay, row, column), disk.data[row, column])
        assert disk.values_read == 3 * 16 * 10

    def test_a_block_too_large_is_read_pixel_by_pixel(self, replay, monkeypatch):
        replay, disk = replay
        monkeypatch.setattr(recording, "_CACHE_BYTES", 100)
        for row, column in ((0, 0), (5, 7)):
            np.testing.assert_array_equal(self.read(replay, row, column), disk.data[row, column])
        assert disk.values_read == 2 * 10

    def test_axes_that_run_backwards_are_turned_on_disk_too(self, tmp_path, rng):
        data = rng.poisson(50, (3, 4, 5)).astype(np.uint16)
        axes = spectrum_axes(3, 4, 5)
        axes[1] = axis("x", 4, -1.0, "nm", True)
        replay = connect(write_recording(tmp_path / "turned.hspy", data, axes), lazy=True)
        assert replay.recording.spectra.is_lazy
        for column in range(4):
            np.testing.assert_array_equal(self.read(replay, 1, -column), data[1, column])


def test_a_map_of_wavelengths_is_not_played_back(tmp_path):
    axes = spectrum_axes(3, 4, 5, units="nm")
    axes[2]["name"] = "Wavelength"
    path = write_recording(tmp_path / "light.hspy", np.ones((3, 4, 5), np.uint8), axes, signal_type="CL")
    with pytest.raises(BadInput, match="no EELS or EDS spectrum image"):
        connect(path)


def test_one_pixel_is_a_recording(tmp_path):
    path = write_recording(tmp_path / "one.hspy", np.full((1, 1, 5), 7, np.uint8), spectrum_axes(1, 1, 5))
    replay = connect(path)
    assert replay.scanner.native_shape == (1, 1)
    replay.scanner.move_probe(0.0, 0.0)
    assert replay.spectrometer.acquire_spectrum(1.0, NEVER).data.tolist() == [7] * 5
