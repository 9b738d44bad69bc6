"""The decoder, its derivatives, its calibration, and noticing what goes wrong with the plate."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_smarttem.physics.caustics import BIAS_LIMIT_V, CAPACITANCE_F, DEFOCUS_LIMIT_RAD, Caustics, record
from napari_smarttem.physics.caustics_basis import TERMS
from napari_smarttem.schema import BadInput, Cancelled, image_frame
from napari_smarttem.single_pixel.calibrate import STEPS, calibrate, calibration_biases, local_slopes
from napari_smarttem.single_pixel.pool import settings_of_pool, sharpest
from napari_smarttem.single_pixel.predict import Decoder, nrmse, pearson
from napari_smarttem.single_pixel.residual import TERMS as TERMS_LEARNED
from napari_smarttem.single_pixel.residual import corrected, learned
from napari_smarttem.single_pixel.watch import bucket_signal, check_predictor


def test_the_decoder_of_the_true_plate_predicts_its_patterns(plate, decoder):
    biases = np.random.default_rng(1).uniform(-5, 5, (10, 8))
    found, truth = decoder.predict(biases), plate.patterns(biases)
    assert pearson(found, truth).min() > 0.999
    assert nrmse(found, truth).max() < 0.03


def test_shift_and_defocus_are_those_of_the_plate(plate, decoder):
    biases = np.random.default_rng(4).uniform(-2, 2, (3, 8))
    shift, defocus = np.array([[6.0, -3.0], [0.0, 0.0], [-9.0, 4.0]]), np.array([-5.0, 4.0, -8.0])
    there = plate.patterns(biases, shift, defocus)
    assert nrmse(decoder.predict(biases, shift, defocus), there).max() < 0.05
    assert nrmse(decoder.predict(biases, shift), there).min() > 0.3  # defocus matters


def test_the_smallest_spot_is_smaller_where_focus_may_be_changed(decoder):
    biases, defocus = sharpest(decoder)
    kept, none = sharpest(decoder, defocus_rad=0.0)
    assert none == 0.0
    focused = decoder.predict(biases[None], None, np.array([defocus]))[0]
    unfocused = decoder.predict(kept[None])[0]
    assert (focused**2).sum() > 2 * (unfocused**2).sum()
    drawn = settings_of_pool(300, decoder, np.random.default_rng(0), spot=(biases, defocus))
    assert np.abs(drawn.biases_v).max() <= BIAS_LIMIT_V
    assert np.abs(drawn.defocus_rad).max() <= DEFOCUS_LIMIT_RAD
    assert np.std(drawn.defocus_rad) > 1.0


def test_the_slopes_are_the_derivatives(decoder):
    biases = np.random.default_rng(2).uniform(-2, 2, (1, 8))
    moved = [
        (decoder.detector_for(decoder.globals_ + np.eye(6)[k] * STEPS[k]) - decoder.detector) / STEPS[k]
        for k in range(1, 5)
    ]
    predicted, slopes = local_slopes(decoder, decoder.phases(biases)[0], moved)
    np.testing.assert_allclose(predicted, decoder.predict(biases)[0].ravel(), atol=1e-7)
    for term in (0, 5, 20, TERMS - 2):
        change = np.zeros_like(decoder.coefficients)
        change[term, -1] = 0.02
        up = replace(decoder, coefficients=decoder.coefficients + change).predict(biases)[0].ravel()
        down = replace(decoder, coefficients=decoder.coefficients - change).predict(biases)[0].ravel()
        expected = (up - down) / 0.04
        assert np.linalg.norm(slopes[:, term] - expected) < 0.02 * np.linalg.norm(expected)
    for column, index in ((TERMS, 0), (TERMS + 1, 1), (TERMS + 5, 5)):
        step = np.eye(6)[index] * 0.01
        up = replace(decoder, globals_=decoder.globals_ + step).predict(biases)[0].ravel()
        down = replace(decoder, globals_=decoder.globals_ - step).predict(biases)[0].ravel()
        expected = (up - down) / 0.02
        assert np.linalg.norm(slopes[:, column] - expected) < 0.06 * np.linalg.norm(expected)


@pytest.mark.slow
def test_a_calibration_finds_the_plate(plate):
    rng = np.random.default_rng(4)
    biases = calibration_biases(150, rng)
    result = calibrate(biases, record(plate.patterns(biases), 1e5, rng), 1e5)
    held = rng.uniform(-5, 5, (40, 8))
    truth = plate.patterns(held)
    assert pearson(result.decoder.predict(held), truth).mean() > 0.98
    assert nrmse(result.decoder.predict(held), truth).mean() < 0.10
    assert pearson(Decoder.nominal().predict(held), truth).mean() < 0.8


def test_what_physics_has_no_number_for_is_learned(plate, decoder):
    rng = np.random.default_rng(6)
    biases = rng.uniform(-3, 3, (60, 8))

    def seen(patterns):
        far = gaussian_filter(patterns, (0, 5.0, 5.0))
        return 0.93 * patterns + 0.05 * far + 0.02 * patterns.mean(axis=(1, 2), keepdims=True)

    predicted = decoder.predict(biases)
    weights = learned(predicted[:40], record(seen(predicted[:40]), 1e5, rng), 1e5, 0.01)
    before = nrmse(predicted[40:], seen(predicted[40:])).mean()
    after = nrmse(corrected(predicted[40:], weights), seen(predicted[40:])).mean()
    assert after < 0.3 * before
    np.testing.assert_allclose(corrected(predicted, np.zeros(TERMS_LEARNED)), predicted)
    taught = replace(decoder, residual=weights)
    np.testing.assert_allclose(taught.predict(biases[:2]), corrected(predicted[:2], weights), rtol=1e-4, atol=1e-7)


def test_gentle_biases_are_soon_predicted(plate):
    rng = np.random.default_rng(5)
    biases = rng.uniform(-0.4, 0.4, (24, 8))
    result = calibrate(biases, record(plate.patterns(biases), 1e5, rng), 1e5, passes=0)
    held = rng.uniform(-0.4, 0.4, (10, 8))
    truth = plate.patterns(held)
    fitted, unfitted = (nrmse(d.predict(held), truth).mean() for d in (result.decoder, Decoder.nominal()))
    assert fitted < 0.25 * unfitted


def test_a_calibration_can_be_stopped_and_refuses_bad_data(plate):
    biases = np.zeros((24, 8))
    patterns = plate.patterns(biases[:1]).repeat(24, axis=0)
    with pytest.raises(Cancelled):
        calibrate(biases, patterns, 1e5, progress=lambda done, words: True)
    with pytest.raises(BadInput, match="too few"):
        calibrate(biases[:5], patterns[:5], 1e5)
    patterns[3, 0, 0] = np.nan
    with pytest.raises(BadInput, match="not finite"):
        calibrate(biases, patterns, 1e5)


def test_charging_is_noticed_and_only_the_offsets_fitted_again(plate, decoder):
    rng = np.random.default_rng(6)
    drifted = Caustics(
        plate.plate.charged_by(0.2 * CAPACITANCE_F * rng.standard_normal(8)), plate.optics, samples=64, oversampling=1
    )
    few = rng.uniform(-2.5, 2.5, (5, 8))
    check = check_predictor(decoder, few, record(drifted.patterns(few), 1e5, rng), 1e5)
    held = rng.uniform(-5, 5, (10, 8))
    truth = drifted.patterns(held)
    assert check.changed
    assert "charged" in check.remark
    np.testing.assert_array_equal(check.decoder.coefficients, decoder.coefficients)
    assert nrmse(decoder.predict(held), truth).mean() > 0.1
    assert nrmse(check.decoder.predict(held), truth).mean() < 0.05


def test_a_good_predictor_is_left_alone(plate, decoder):
    rng = np.random.default_rng(7)
    few = rng.uniform(-2.5, 2.5, (5, 8))
    check = check_predictor(decoder, few, record(plate.patterns(few), 1e5, rng), 1e5)
    assert not check.changed
    assert check.decoder is decoder


def test_a_dead_needle_is_named(plate, decoder):
    rng = np.random.default_rng(8)
    few = rng.uniform(-2.5, 2.5, (5, 8))
    stuck = few.copy()
    stuck[:, 4] = 1.3
    check = check_predictor(decoder, few, record(plate.patterns(stuck), 1e5, rng), 1e5)
    assert "Needle 5 does not respond" in check.remark
    assert check.decoder.dead[4] == pytest.approx(1.3, abs=0.1)


def test_a_decoder_is_saved_and_read_back(decoder, tmp_path):
    decoder = replace(decoder.with_offset(np.arange(8) * 0.1), dead={2: 0.5}, residual=0.01 * np.arange(TERMS_LEARNED))
    decoder.save(tmp_path / "plate.npz")
    again = Decoder.load(tmp_path / "plate.npz")
    biases = np.random.default_rng(9).uniform(-5, 5, (2, 8))
    np.testing.assert_array_equal(again.predict(biases), decoder.predict(biases))
    written = decoder.as_mapping()
    np.testing.assert_array_equal(Decoder.from_mapping(written).predict(biases), decoder.predict(biases))
    with pytest.raises(BadInput, match="learned part"):
        Decoder.from_mapping({**written, "residual": [1.0, 2.0]})
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="calibrate anew"):
        Decoder.load(tmp_path / "other.npz")
    with pytest.raises(BadInput, match="8 biases"):
        decoder.predict(np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("counts", "metadata", "words"),
    [
        (np.nan, {"electrons": 1e4}, "not a number"),
        (4e6, {"electrons": 1e7, "saturated": True}, "saturates"),
        (10.0, {}, "blanked"),
    ],
)
def test_bad_bucket_signals_are_named(counts, metadata, words):
    frame = image_frame(np.array([[counts]]), pixel_nm=1.0, signal="bucket", metadata=metadata)
    signal, wrong = bucket_signal(frame)
    assert np.isnan(signal)
    assert words in wrong


def test_a_good_bucket_signal_is_a_fraction_of_the_beam():
    frame = image_frame(np.array([[2500.0]]), pixel_nm=1.0, signal="bucket", metadata={"electrons": 1e4})
    assert bucket_signal(frame) == (0.25, "")
