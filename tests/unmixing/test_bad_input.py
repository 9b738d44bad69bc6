"""Files that cannot be unmixed, or are odd, through the command line: one clear sentence each, and no traceback."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_smarttem.cli import main
from napari_smarttem.io import write
from napari_smarttem.schema import image_frame, spectrum_frame
from napari_smarttem.schema.frame import Axis, Frame


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    """Two kinds of spectra, mixed from left to right."""
    energy = np.arange(96)
    kinds = np.stack([60 * np.exp(-energy / 30.0) + 40 * (energy > 40), 30 + 60.0 * (energy > 70)])
    share = np.linspace(0, 1, 16)[None, :, None] * np.ones((12, 1, 1))
    return np.random.default_rng(0).poisson((1 - share) * kinds[0] + share * kinds[1]).astype(np.float32)


def _written(data: np.ndarray, path):
    axes = (Axis(name="y", units="nm"), Axis(name="x", units="nm"))
    axis = Axis(name="energy_loss", units="eV", scale=2.0, offset=200.0)
    return write(Frame(data=data, axes=(*axes, axis), signal="EELS", metadata={"title": "set"}), path)


def _said(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("smarttem:")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(
    ("change", "given"),
    [
        (lambda d: np.where(np.arange(96) == 7, np.nan, d), ([], "hold NaN or infinite values")),
        (lambda d: d * 0, ([], "nothing to unmix")),
        (lambda d: d[:1, :1], ([], "one single spectrum")),
        (lambda d: d[:2, :3], (["--components", "9"], "9 components are more than 6 spectra")),
        (lambda d: d, (["--components", "-2"], "whole number from 1 on")),
        (lambda d: d, (["--method", "magic"], "magic")),
        (lambda d: d, (["--energy", "5000", "6000"], "there are 0 channels")),
        (lambda d: d, (["--bin", "500"], "Cannot bin")),
    ],
    ids=["NaN", "all zero", "one spectrum", "too many", "negative number", "method", "energies", "binning"],
)
def test_data_that_cannot_be_unmixed(counts, tmp_path, capsys, change, given) -> None:
    options, words = given
    path = _written(change(counts).astype(np.float32), tmp_path / "odd.hspy")
    assert main(["unmix", str(path), "--no-elements", "--json", *options]) == 2
    assert words in _said(capsys)


def test_files_of_another_kind_or_cut_short(counts, tmp_path, capsys) -> None:
    image = write(image_frame(np.ones((6, 6)), pixel_nm=1.0, signal="HAADF"), tmp_path / "image.hspy")
    single = spectrum_frame(np.ones(64), dispersion_ev=1.0, offset_ev=5.0, signal="EELS")
    single_path = write(single, tmp_path / "single.hspy")
    whole = _written(counts, tmp_path / "whole.hspy")
    torn = tmp_path / "torn.hspy"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for path, words in ((image, "no spectrum image"), (single_path, "no spectrum image"), (torn, "torn.hspy")):
        assert main(["unmix", str(path), "--json"]) == 2
        assert words in _said(capsys)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: np.where(np.arange(96) // 8 == 2, 0, d), "8 of 96 channels hold no counts in any pixel"),
        (lambda d: d - 30, "a constant that was subtracted"),
        (lambda d: d - d.mean(axis=(0, 1)), "There are negative values"),
    ],
)
def test_odd_data_are_unmixed_with_a_warning(counts, tmp_path, capsys, change, words) -> None:
    path = _written(change(counts).astype(np.float32), tmp_path / "odd.hspy")
    assert main(["unmix", str(path), "--no-elements", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any(words in warning for warning in found["warnings"])
    assert np.isfinite(found["residual"])


def test_a_few_negative_values_do_not_cost_the_noise_of_counting(counts, tmp_path, capsys) -> None:
    """Read-out noise of half a count leaves hardly any value below zero, and these few do not decide."""
    rng = np.random.default_rng(1)
    few = counts + rng.normal(0, 0.5, counts.shape)
    few[3, 4, 5] = -0.4
    assert 0 < (few < 0).mean() < 0.01
    path = _written(few.astype(np.float32), tmp_path / "few.hspy")
    asked = ["unmix", str(path), "--no-elements", "--json"]
    assert main(asked) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*asked, "--zero-negatives"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert plain["components"] == found["components"] == 2
    assert not any("negative" in one for one in [*plain["warnings"], *found["warnings"]])
    many = _written((counts - 30).astype(np.float32), tmp_path / "many.hspy")
    assert main(["unmix", str(many), "--no-elements", "--json", "--zero-negatives"]) == 2
    assert "of the values are negative" in _said(capsys)
