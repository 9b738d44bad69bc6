"""Unmixing against known truth: what is found, how sure it is, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_smarttem.bench.parts import unmixing_measures as measures
from napari_smarttem.bench.parts import unmixing_sets as sets
from napari_smarttem.schema import BadInput, Cancelled
from napari_smarttem.schema.frame import Axis, Frame
from napari_smarttem.unmixing import METHODS, match, passes, rank, unmix
from napari_smarttem.unmixing.spectra import spectrum_image


@pytest.fixture(scope="module")
def truth() -> sets.Truth:
    return sets.easy(3, (64, 64), 512)


@pytest.fixture(scope="module")
def found(truth):
    return unmix(truth.data)


def test_finds_spectra_and_amounts_of_an_easy_set(truth, found) -> None:
    angle, error = sets.matched(truth, found.endmembers, found.maps)
    assert found.components == 4
    assert angle < 0.6
    assert error < 0.02
    assert found.warnings == ()


def test_residual_is_that_of_counting_noise(found) -> None:
    assert found.chi2 == pytest.approx(1.0, abs=0.02)
    assert found.residual_map.mean() == pytest.approx(1.0, abs=0.02)
    assert found.residual_map.std() < 0.2


def test_error_bars_hold_two_thirds_of_the_truth(truth, found) -> None:
    inside, _ = measures.coverage(truth, found)
    assert 0.60 < inside < 0.75


def test_model_of_a_pixel_is_its_spectrum_within_the_noise(truth, found) -> None:
    model = found.reconstruct(10, 20)
    assert np.mean((truth.data[10, 20] - model) ** 2 / np.maximum(model, 1)) == pytest.approx(1.0, abs=0.35)
    window = found.reconstruct_window(100, 140)
    assert np.corrcoef(window.ravel(), truth.data[..., 100:140].sum(axis=-1).ravel())[0, 1] > 0.9


def test_same_seed_same_answer_and_other_seeds_nearly(truth, found) -> None:
    again = unmix(truth.data)
    np.testing.assert_array_equal(again.maps, found.maps)
    assert match(found, unmix(truth.data, seed=5)).mean_correlation > 0.99


def test_brightness_of_the_data_does_not_matter(truth, found) -> None:
    brighter = unmix(truth.data.astype(np.uint16))
    np.testing.assert_allclose(brighter.maps, found.maps, atol=2e-4)


def test_without_pure_pixels_faces_are_found() -> None:
    hard = sets.hard("no_pure", 11, (64, 64), 512)
    result = unmix(hard.data)
    angle, _ = sets.matched(hard, result.endmembers, result.maps)
    assert hard.maps.max() < 0.81
    assert angle < 1.5
    assert "faces" in result.assumption


def test_where_everything_is_mixed_it_says_so_and_uses_the_lines() -> None:
    hard = sets.hard("all_mixed", 12, (64, 64), 1024)
    result = unmix(hard.data)
    geometry = unmix(hard.data, method="minimum-volume")
    angle, _ = sets.matched(hard, result.endmembers, result.maps)
    other, _ = sets.matched(hard, geometry.endmembers, geometry.maps)
    assert result.method == "lines"
    assert "little of everything" in result.assumption
    assert any("geometry alone" in warning for warning in result.warnings)
    assert angle < 0.5 * other


@settings(max_examples=6)
@given(k=st.integers(1, 6), counts=st.floats(5, 80), seed=st.integers(0, 1000))
def test_number_of_components(k: int, counts: float, seed: int) -> None:
    made = sets.easy(seed, (40, 40), 256, k=k, counts=counts)
    assert unmix(made.data).components == k


def test_only_components_that_are_there_are_seen_again_in_held_out_counts() -> None:
    made = sets.easy(8, (40, 40), 256, k=3, counts=0.5)
    seen = rank.held_out(spectrum_image(made.data), 7)
    assert (seen[:3] > rank.SURE).all()
    assert (np.abs(seen[3:]) < rank.SURE).all()


def test_thickness_does_not_bend_the_faces() -> None:
    made = sets.easy(4, (64, 64), 512)
    rng = np.random.default_rng(0)
    thickness = np.linspace(0.4, 1.6, 64)[None, :, None]
    mean = np.tensordot(made.maps, made.endmembers, axes=(0, 0)) * thickness
    result = unmix(rng.poisson(mean).astype(np.float32))
    assert result.components == 4
    assert sets.matched(made, result.endmembers, result.maps)[0] < 0.8


@pytest.mark.parametrize("method", ["minimum-volume", "vca", "spa", "n-findr", "nmf", "ica", "lines"])
def test_every_method_that_gives_spectra_is_near_on_an_easy_set(truth, method: str) -> None:
    result = unmix(truth.data, method=method, components=4)
    assert sets.matched(truth, result.endmembers, result.maps)[0] < 12
    assert result.assumption
    assert result.method


def test_clusters_and_painted_pixels_agree_where_one_kind_prevails(truth) -> None:
    kinds = truth.maps.argmax(axis=0) + 1
    clear = truth.maps.max(axis=0) > 0.9
    labels = np.zeros_like(kinds)
    for kind in range(1, 5):
        y, x = np.argwhere(clear & (kinds == kind))[::61].T
        labels[y, x] = kind
    painted = unmix(truth.data, method="labels", components=4, labels=labels)
    assert (painted.extra["labels"] == kinds)[clear].mean() > 0.98
    clusters = unmix(truth.data, method="clusters", components=4).extra["labels"]
    table = np.array([[np.sum((clusters == a) & (kinds == b) & clear) for b in range(1, 5)] for a in range(1, 5)])
    assert table.max(axis=1).sum() / table.sum() > 0.9


def test_reference_fit_gives_the_true_amounts(truth) -> None:
    result = unmix(truth.data, method="reference", library=truth.endmembers)
    assert np.sqrt(np.mean((result.maps / result.maps.sum(axis=0) - truth.maps) ** 2)) < 0.02


def test_known_noise_is_reported_when_it_is_not_counting(truth) -> None:
    scaled = unmix(truth.data * 0.25 + 0.01)
    assert scaled.provenance["noise_variance"] == pytest.approx(0.25, rel=0.05)
    gained = unmix(truth.data * 4.0)
    assert any("counting" in warning for warning in gained.warnings)


def test_shared_noise_of_channels_is_noticed(truth) -> None:
    from scipy.ndimage import gaussian_filter1d

    result = unmix(gaussian_filter1d(truth.data, 1.0, axis=-1))
    assert any("share their noise" in warning for warning in result.warnings)


def test_memory_maps_and_lazy_arrays_give_the_same(truth, found, tmp_path) -> None:
    import dask.array as da

    np.save(tmp_path / "data.npy", truth.data)
    mapped = unmix(np.load(tmp_path / "data.npy", mmap_mode="r"))
    np.testing.assert_allclose(mapped.maps, found.maps, atol=1e-4)
    lazy = unmix(da.from_array(truth.data, chunks=(16, 64, 512)))
    np.testing.assert_allclose(lazy.maps, found.maps, atol=1e-4)


def test_workers_of_a_cluster_give_the_same(truth, found, tmp_path) -> None:
    distributed = pytest.importorskip("distributed")
    import dask.array as da

    np.save(tmp_path / "data.npy", truth.data)
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        lazy = unmix(da.from_array(truth.data, chunks=(16, 64, 512)), client=client)
        mapped = unmix(np.load(tmp_path / "data.npy", mmap_mode="r"), client=client)
        worked = sum(client.run(lambda dask_worker: dask_worker.state.executed_count).values())
    np.testing.assert_allclose(lazy.maps, found.maps, atol=1e-4)
    np.testing.assert_allclose(mapped.maps, found.maps, atol=1e-4)
    assert worked >= 2 * 4 + 2  # two readings of four chunks, two of a small file
    with pytest.raises(Cancelled):
        unmix(np.load(tmp_path / "data.npy", mmap_mode="r"), cancel=lambda: True)


def test_a_file_cut_short_is_refused_in_a_sentence(truth, tmp_path) -> None:
    path = tmp_path / "data.npy"
    np.save(path, truth.data)
    mapped = np.load(path, mmap_mode="r")[:, ::1]
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(BadInput, match="ends early"):
        passes.sums(spectrum_image(mapped), np.ones((512, 7), np.float32), True, 0.0, lambda fraction: None)


def test_a_part_of_a_memory_map_is_read_from_its_place(truth, tmp_path) -> None:
    path = tmp_path / "data.npy"
    np.save(path, truth.data)
    part = np.load(path, mmap_mode="r")[10:40]
    blocks = [block.copy() for _, _, block in spectrum_image(part).blocks()]
    np.testing.assert_array_equal(np.concatenate(blocks), truth.data[10:40].reshape(-1, 512))
    strided = np.load(path, mmap_mode="r")[:, 3:50]
    blocks = [block.copy() for _, _, block in spectrum_image(strided).blocks()]
    np.testing.assert_array_equal(np.concatenate(blocks), truth.data[:, 3:50].reshape(-1, 512))


def test_progress_rises_and_cancel_stops(truth) -> None:
    told: list[float] = []
    unmix(truth.data, progress=lambda fraction, word: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == 1.0
    with pytest.raises(Cancelled):
        unmix(truth.data, cancel=lambda: len(told) > 0)


def test_line_scan_and_empty_channels_and_pixels(truth) -> None:
    data = truth.data.copy()
    data[..., :20] = 0
    data[3, 4] = 0
    result = unmix(data)
    assert np.isfinite(result.maps).all()
    assert np.isfinite(result.endmembers).all()
    assert (result.endmembers[:, :20] == 0).all()
    assert (result.maps[:, 3, 4] == 0).all()
    line = unmix(truth.data[32], components=3)
    assert line.maps.shape == (3, 1, 64)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((8, 8, 64)), "nothing to unmix"),
        (np.full((8, 8, 64), np.nan), "NaN"),
        (np.ones(64), "single spectrum"),
        (np.ones((1, 1, 64)), "single spectrum"),
        (np.ones((8, 8, 64), dtype=complex), "real numbers"),
        (np.ones((8, 8, 2)), "channels"),
        (np.ones((2, 2, 2, 8)), "dimensions"),
    ],
)
def test_bad_data_is_refused_in_a_sentence(data, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        unmix(data)


def test_bad_settings_are_refused_in_a_sentence(truth) -> None:
    with pytest.raises(BadInput, match="more than"):
        unmix(truth.data[:3, :3], components=50)
    with pytest.raises(BadInput, match="no unmixing method"):
        unmix(truth.data, method="magic")
    with pytest.raises(BadInput, match="whole number"):
        unmix(truth.data, components=0)
    with pytest.raises(BadInput, match="negative"):
        unmix(truth.data - 50, noise="poisson")
    image = Frame(data=np.ones((4, 8, 8)), axes=(Axis(name="frame"), Axis(name="y"), Axis(name="x")), signal="HAADF")
    with pytest.raises(BadInput, match="not a spectrum image"):
        unmix(image)


def test_negative_values_are_unmixed_with_even_noise(truth) -> None:
    result = unmix(truth.data - truth.data.mean(axis=(0, 1)), components=4)
    assert any("negative" in warning for warning in result.warnings)
    assert result.provenance["noise"] == "uniform"


def test_menu_has_a_title_and_a_summary_for_every_method() -> None:
    assert next(iter(METHODS)) == "auto"
    assert all(method.title and method.summary.endswith(".") for method in METHODS.values())
