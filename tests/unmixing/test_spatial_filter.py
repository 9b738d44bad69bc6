"""Noise taken out of maps: by how much, with honest error bars, and not where structure is as fine as the pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_smarttem.bench.parts import unmixing_measures as measures
from napari_smarttem.bench.parts import unmixing_sets as sets
from napari_smarttem.cli import main
from napari_smarttem.schema import BadInput, Cancelled
from napari_smarttem.unmixing import match, spatial_filter, unmix
from napari_smarttem.unmixing.similar_places import similar_places


@pytest.fixture(scope="module")
def truth() -> sets.Truth:
    return sets.easy(46, (48, 48), 256, k=3, counts=3.0)


@pytest.fixture(scope="module")
def smooth(truth):
    return unmix(truth.data, components=3, smooth_maps=True)


def test_maps_are_nearer_to_the_truth_and_error_bars_say_by_how_much(truth, smooth) -> None:
    plain = unmix(truth.data, components=3)
    before, after = (sets.matched(truth, one.endmembers, one.maps)[1] for one in (plain, smooth))
    assert after < 0.7 * before
    said = np.sqrt((smooth.map_errors**2).mean() / (plain.map_errors**2).mean())
    assert said == pytest.approx(after / before, rel=0.25)
    assert measures.coverage(truth, smooth)[0] == pytest.approx(0.68, abs=0.12)
    np.testing.assert_allclose(smooth.endmembers.sum(axis=1), plain.endmembers.sum(axis=1), rtol=0.02)


def test_what_held_out_counts_say_is_recorded_and_repeats_itself(truth, smooth) -> None:
    said = smooth.provenance["smooth_maps"]
    assert said["used"] is True
    assert said["held_out_error"] < 0.6
    again = unmix(truth.data, components=3, smooth_maps=True)
    np.testing.assert_array_equal(again.maps, smooth.maps)


def test_structure_as_fine_as_the_pixels_stays() -> None:
    rng = np.random.default_rng(3)
    spectra = sets.spectra(rng, 2, 128) * 30.0
    part = rng.integers(0, 2, (40, 40)) * 1.0  # white: no frequency holds more of it than another
    data = rng.poisson(part[..., None] * spectra[0] + (1 - part)[..., None] * spectra[1]).astype(np.float32)
    plain, kept = (unmix(data, components=2, smooth_maps=on) for on in (False, True))
    made = sets.Truth(data, spectra, np.stack([part, 1 - part]))
    before, after = (sets.matched(made, one.endmembers, one.maps)[1] for one in (plain, kept))
    assert after < 1.05 * before


def test_values_that_are_no_counts_and_few_pixels_are_taken_too(truth) -> None:
    noisy = truth.data - 1.0  # negative values: no counts, whose noise is known all the same
    result = unmix(noisy, components=3, smooth_maps=True)
    assert result.provenance["noise"] == "counting and read-out"
    assert result.provenance["smooth_maps"]["used"] is True
    few = unmix(truth.data[:4, :5], components=2, smooth_maps=True)
    assert few.provenance["smooth_maps"] == {"used": False, "held_out_error": 1.0, "by": ""}


def test_methods_whose_maps_are_no_fit_are_refused_in_one_sentence(truth) -> None:
    with pytest.raises(BadInput, match="cannot be smoothed by counts"):
        unmix(truth.data, method="svd", components=3, smooth_maps=True)


@pytest.mark.real_data
def test_command_line_says_by_how_much_recorded_maps_became_better(shared_data, capsys) -> None:
    assert main(["unmix", str(shared_data / "core_shell.hspy"), "--json", "--no-elements", "--smooth-maps"]) == 0
    said = json.loads(capsys.readouterr().out)["smooth_maps"]
    assert said["used"] is True
    assert said["held_out_error"] < 0.4


@pytest.fixture(scope="module")
def particles() -> sets.Truth:
    """Round particles of one size on a film of slowly changing thickness, at five counts a pixel for the film."""
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:48, :48]
    particle = np.zeros((48, 48))
    for row in range(6, 48, 12):
        for column in range(6, 48, 12):
            away = np.hypot(y - row - rng.uniform(-2, 2), x - column - rng.uniform(-2, 2))
            particle = np.maximum(particle, np.clip(4.5 - away, 0.0, 1.0))
    film = (0.6 + 0.4 * np.cos(np.pi * (y + x) / 96.0)) * (1.0 - 0.8 * particle)
    spectra = sets.spectra(rng, 2, 128) * np.array([[40.0 / 128], [5.0 / 128]])
    maps = np.stack([particle, film])
    data = rng.poisson(np.tensordot(maps, spectra, axes=(0, 0))).astype(np.float32)
    return sets.Truth(data, spectra, maps)


def test_places_that_look_alike_tell_more_than_waves(particles) -> None:
    whole, one, other = _halves(particles)
    rng = np.random.default_rng(0)
    mean = _means(particles)
    waves = spatial_filter.filtered(whole, one, other)[0]
    (alike,) = similar_places(whole, one, other, lambda *parts: spatial_filter.filtered(*parts)[0], rng, width=5)
    plain, before, after = (((image - mean) ** 2).mean() for image in (whole, waves, alike))
    assert before < 0.5 * plain
    assert after < 0.8 * before


def test_more_strength_keeps_less_noise(particles) -> None:
    found = []
    for seed in range(2):
        whole, one, other = _halves(particles, seed)
        pilot = lambda *parts: spatial_filter.filtered(*parts)[0]  # noqa: E731
        found.append(
            similar_places(whole, one, other, pilot, np.random.default_rng(0), width=5, strengths=(1.0, 2.0, 4.0))
        )
    apart = [float(((a - b) ** 2).mean()) for a, b in zip(*found, strict=True)]
    assert apart[0] > 1.2 * apart[1] > 1.2**2 * apart[2]


def test_repeatable_maps_repeat_better_and_say_what_that_costs(particles) -> None:
    halves = [
        np.random.default_rng(2).binomial(particles.data.astype(int), 0.5).astype(np.float32),
    ]
    halves.append(particles.data - halves[0])
    agree, error = {}, {}
    for goal in ("least error", "repeatable"):
        pair = [unmix(half, components=2, smooth_maps=goal) for half in halves]
        agree[goal] = match(*pair).mean_correlation
        said = pair[0].provenance["smooth_maps"]
        error[goal] = said["held_out_error"]
        assert "places that look alike" in said["by"]
    assert agree["repeatable"] > agree["least error"]
    assert error["least error"] <= error["repeatable"] <= error["least error"] + spatial_filter.SHARE


def test_a_pixel_without_counts_gets_what_its_neighbours_say(particles) -> None:
    data = particles.data.copy()
    data[20:22, 0] = 0.0
    smooth = unmix(data, components=2, smooth_maps=True)
    film = smooth.maps[int(np.argmax(smooth.maps[:, 20:22, 0].mean(axis=1)))]
    assert film[20, 0] > 0.3 * film[19, 0] > 0.0
    assert smooth.map_errors[:, 20, 0].max() > 0.0


def test_a_part_of_the_image_without_counts_stays_empty(particles) -> None:
    data = particles.data.copy()
    data[:20] = 0.0
    smooth = unmix(data, components=2, smooth_maps=True)
    assert smooth.provenance["smooth_maps"]["used"] is True
    assert smooth.maps[:, :16].max() < 0.02 * smooth.maps.max()


def test_smoothing_is_stopped_and_an_unknown_goal_is_refused(particles) -> None:
    words: list[str] = []
    done: list[float] = []
    with pytest.raises(Cancelled):
        unmix(
            particles.data,
            components=2,
            smooth_maps=True,
            progress=lambda fraction, word: (words.append(word), done.append(fraction)),
            cancel=lambda: words.count("smoothing") > 8,
        )
    assert done == sorted(done)
    assert done[-1] < 0.6, "most of the time is still to come"
    with pytest.raises(BadInput, match="least error or repeatable"):
        unmix(particles.data, smooth_maps="stronger")


def _halves(truth: sets.Truth, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Sums over two energy windows that stand for scores: data, their halves."""
    data = (
        truth.data
        if seed == 0
        else np.random.default_rng(seed).poisson(np.tensordot(truth.maps, truth.endmembers, axes=(0, 0)))
    )
    one = np.random.default_rng(seed + 50).binomial(data.astype(int), 0.5).astype(float)
    return tuple(_windows(image) for image in (data, one, data - one))


def _windows(image: np.ndarray) -> np.ndarray:
    return np.stack([image[..., :40].sum(axis=-1), image[..., 40:].sum(axis=-1)], axis=-1).astype(float)


def _means(truth: sets.Truth) -> np.ndarray:
    return _windows(np.tensordot(truth.maps, truth.endmembers, axes=(0, 0)))
