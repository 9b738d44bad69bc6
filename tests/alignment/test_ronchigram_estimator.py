"""Reading aberrations from one Ronchigram: right, honest about its errors, and silent where there is nothing to read."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_smarttem.alignment.bound import standard_errors  # noqa: E402
from napari_smarttem.alignment.estimator import Estimator, prepared  # noqa: E402
from napari_smarttem.alignment.spectra import (  # noqa: E402
    Layout,
    extras,
    for_network,
    logarithms,
    network_bins,
    periodograms,
    physical,
    reduced,
)
from napari_smarttem.alignment.training import RonchigramTask, draw_published, local_truth, mirrored  # noqa: E402
from napari_smarttem.cli import main  # noqa: E402
from napari_smarttem.physics.aberrations import ESTIMATED  # noqa: E402
from napari_smarttem.physics.ronchigram import Film, Geometry, Recording, simulate  # noqa: E402
from napari_smarttem.physics.ronchigram_spectrum import expected_spectrum  # noqa: E402
from napari_smarttem.schema import BadInput  # noqa: E402

TRUTH = np.array([-1450.0, 60, -40, 500, -300, 400, 600, 50.0])
CALIBRATION = {"high_tension_v": 300e3, "half_angle_mrad": 30.0}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def frame():
    generator = torch.Generator().manual_seed(8)
    recording = Recording(dose_e_per_px=200.0)
    return simulate(Geometry(), TRUTH[None], ESTIMATED, recording=recording, generator=generator)[0].numpy()


@pytest.fixture(scope="module")
def estimator():
    return Estimator(None)


def test_reads_a_frame_within_its_error_bars(frame, estimator):
    found = estimator.measure(frame, **CALIBRATION)
    assert found.good, found.verdict
    errors = found.coefficients - TRUTH
    assert np.all(np.abs(errors) < 4 * found.sigma)
    assert np.all(np.abs(errors) < [6, 4, 4, 40, 40, 60, 60, 4])
    bound = standard_errors(Geometry(), TRUTH)
    assert np.all(found.sigma > bound)
    assert np.all(found.sigma < 12 * bound)
    table = json.loads(json.dumps(found.as_dict()))
    assert table["aberrations"]["C3"]["units"] == "um"


def test_a_poor_start_does_not_matter(frame, estimator):
    rng = np.random.default_rng(2)
    start = TRUTH + 2 * rng.normal(size=8) * [30, 20, 20, 150, 150, 150, 150, 15]
    found = estimator.measure(frame, start=start, **CALIBRATION)
    assert np.all(np.abs(found.coefficients - TRUTH) < 4 * found.sigma)


def test_what_is_no_ronchigram_gets_a_reason_and_no_numbers(estimator):
    rng = np.random.default_rng(1)
    shape = (256, 256)
    flat = rng.poisson(200.0, shape).astype(float)
    bad = {
        "dark": np.zeros(shape),
        "fewer than four electrons": rng.poisson(0.1, shape).astype(float),
        "no Thon rings": flat,
        "saturated": np.minimum(flat, 205.0),
        "not finite": np.where(flat > 240, np.nan, flat),
    }
    for words, image in bad.items():
        found = estimator.measure(image, **CALIBRATION)
        assert not found.good
        assert words in found.verdict
        assert found.as_dict()["aberrations"] == {}


def test_arrays_and_calibrations_that_make_no_sense(estimator):
    with pytest.raises(BadInput, match="image of at least 128"):
        estimator.measure(np.zeros((64, 64)), **CALIBRATION)
    with pytest.raises(BadInput, match="half-angle"):
        estimator.measure(np.ones((256, 256)), high_tension_v=300e3, half_angle_mrad=0.0)
    with pytest.raises(BadInput, match="high tension"):
        estimator.measure(np.ones((256, 256)), high_tension_v=300.0, half_angle_mrad=30.0)


def test_large_and_oblong_frames_are_cut_and_binned_with_their_angles():
    image, geometry = prepared(np.ones((2048, 2304)), 300e3, 30.0)
    assert image.shape == (512, 512)
    assert image[0, 0] == 16.0
    assert geometry == Geometry(300e3, 30.0, 512)


def test_reduced_units_there_and_back():
    layout = Layout(Geometry(80e3, 21.0, 512), 96)
    values = draw_published(np.random.default_rng(0), 20)
    np.testing.assert_allclose(physical(reduced(values, layout), layout), values, rtol=1e-9)
    with pytest.raises(BadInput, match="negative"):
        reduced(-values, layout)


def test_spectra_depend_on_reduced_coefficients_alone():
    """Another voltage and another angle, with the same reduced coefficients: the same rings. One network serves all."""
    here, there = Layout(Geometry(300e3, 30.0, 512), 64), Layout(Geometry(80e3, 22.0, 512), 64)
    values = draw_published(np.random.default_rng(4), 2)
    others = physical(reduced(values, here), there)
    np.testing.assert_allclose(local_truth(here, values), local_truth(there, others), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(extras(here, 1), extras(there, 1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("view", range(1, 8))
def test_mirrored_spectra_are_those_of_the_mirrored_column(view):
    layout = Layout(Geometry(), 64)

    def spectra(values):
        curvature = torch.as_tensor(np.tensordot(values, layout.cell_curvature_basis(), axes=1), dtype=torch.float32)
        expected = expected_spectrum(
            curvature, network_bins(), width_rad=layout.width_rad, wavelength_nm=layout.geometry.wavelength_nm,
            pixel_rad=layout.geometry.pixel_rad, film=Film(), recording=Recording(),
        )  # fmt: skip
        truth = torch.as_tensor(reduced(values, layout), dtype=torch.float32)
        return expected.log(), truth, local_truth(layout, values)

    values = draw_published(np.random.default_rng(view), 1)
    turned, truth, local = mirrored(*spectra(values), view=view)
    direct, _, direct_local = spectra(physical(truth.double().numpy(), layout))
    difference = (turned - direct).abs().reshape(1, 64, 64, 33)[:, :, :, :32]
    difference[:, :, 32] = 0  # the bin at the very edge of the band has no mirror image
    assert float(difference.max()) < 1e-3
    torch.testing.assert_close(local, direct_local, atol=1e-4, rtol=1e-4)


def test_the_network_sees_what_training_draws():
    """Spectra drawn from the formula and spectra of whole frames look alike to the network."""
    layout = Layout(Geometry(), 64)
    frames = simulate(
        Geometry(), np.repeat(TRUTH[None], 2, axis=0), ESTIMATED, generator=torch.Generator().manual_seed(1)
    )
    seen, known = for_network(periodograms(frames, layout), layout)
    curvature = torch.as_tensor(np.tensordot(TRUTH[None], layout.cell_curvature_basis(), axes=1), dtype=torch.float32)
    expected = logarithms(
        expected_spectrum(
            curvature, network_bins(), width_rad=layout.width_rad, wavelength_nm=layout.geometry.wavelength_nm,
            pixel_rad=layout.geometry.pixel_rad, film=Film(), recording=Recording(),
        )
    )  # fmt: skip
    assert seen.shape == (2, 64, 2112)
    assert known.shape == (2, 64, 3)
    together = torch.corrcoef(torch.stack([seen.mean(dim=0).flatten(), expected[0].flatten()]))[0, 1]
    assert float(together) > 0.8


def test_batches_of_the_training_come_from_seed_and_step_alone():
    task = RonchigramTask()
    first, again, other = (task.data(step, 100, 0, 4, "cpu") for step in (3, 3, 4))
    torch.testing.assert_close(first[0], again[0])
    assert not torch.equal(first[2][:1], other[2][:1])
    whole_frames = task.data(99, 100, 0, 4, "cpu")
    assert whole_frames[0].shape == (16, 64, 2112)
    assert torch.isfinite(whole_frames[0]).all()


def test_command_line(frame, tmp_path, capsys):
    np.save(tmp_path / "ronchigram.npy", frame)
    command = ["measure-aberrations", str(tmp_path / "ronchigram.npy"), "--kv", "300", "--model", "none"]
    assert main([*command, "--half-angle", "30", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["aberrations"]["C1"]["value"] == pytest.approx(TRUTH[0], abs=6)
    assert said["verdict"] == "good"
    assert main(command) == 2
    assert "--half-angle" in capsys.readouterr().err
    np.save(tmp_path / "dark.npy", np.zeros((256, 256)))
    assert (
        main(
            ["measure-aberrations", str(tmp_path / "dark.npy"), "--kv", "300", "--half-angle", "30", "--model", "none"]
        )
        == 1
    )
    assert "blanked" in capsys.readouterr().out
