"""Results: edited, compared, saved; elements, preparation, live data, the command line."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from napari_smarttem.bench.parts import unmixing_sets as sets
from napari_smarttem.cli import main
from napari_smarttem.schema import BadInput
from napari_smarttem.schema.frame import Axis, Frame
from napari_smarttem.unmixing import match, save, unmix
from napari_smarttem.unmixing.elements import find_elements
from napari_smarttem.unmixing.live import LiveUnmixer
from napari_smarttem.unmixing.prepare import Preparation, align_zero_loss, subtract_power_law


@pytest.fixture(scope="module")
def result():
    return unmix(sets.easy(5, (32, 32), 256, k=3).data)


def test_renaming_merging_and_dropping_are_recorded(result) -> None:
    edited = result.renamed(0, " core ").merged([1, 2], "shell")
    assert edited.names == ("core", "shell")
    np.testing.assert_allclose(edited.maps[1], result.maps[1] + result.maps[2])
    assert edited.provenance["edits"] == [{"renamed": [0, "core"]}, {"merged": [1, 2]}]
    assert result.dropped(1).names == ("component 1", "component 3")
    with pytest.raises(BadInput, match="no component 7"):
        result.renamed(7, "x")
    with pytest.raises(BadInput, match="at least two"):
        result.merged([1, 1])


def test_matching_undoes_order_sign_and_scale(result) -> None:
    other = result.reordered([2, 0, 1], signs=np.array([1.0, -1.0, 1.0]))
    found = match(result, other)
    assert found.pairs == ((0, 1), (1, 2), (2, 0))
    assert found.signs == (-1.0, 1.0, 1.0)
    np.testing.assert_allclose(found.scales, 1.0, rtol=1e-5)
    np.testing.assert_allclose(found.correlations, 1.0, atol=1e-6)
    np.testing.assert_allclose(found.angles_deg, 0.0, atol=1e-3)


def test_saved_result_opens_in_hyperspy_as_learning_results(result, tmp_path) -> None:
    import hyperspy.api as hs

    signal = hs.load(save(result, tmp_path / "result.hspy"))
    np.testing.assert_allclose(signal.get_decomposition_loadings().data, result.maps, rtol=1e-5)
    np.testing.assert_allclose(signal.get_decomposition_factors().data, result.endmembers, rtol=1e-5)
    assert signal.original_metadata.unmixing.assumption == result.assumption
    with pytest.raises(BadInput, match="exists already"):
        save(result, tmp_path / "result.hspy")


def test_csv_holds_spectra_and_maps(result, tmp_path) -> None:
    save(result, tmp_path / "result.csv")
    rows = list(csv.reader((tmp_path / "result.csv").open()))
    assert len(rows) == 257
    assert float(rows[5][1]) == pytest.approx(result.endmembers[0, 4])
    maps = list(csv.reader((tmp_path / "result-maps.csv").open()))
    assert len(maps) == 32 * 32 + 1
    assert float(maps[1 + 33][2]) == pytest.approx(float(result.maps[0, 1, 1]), rel=1e-5)
    with pytest.raises(BadInput, match=r"\.hspy or \.csv"):
        save(result, tmp_path / "result.xlsx")


def test_x_ray_lines_are_named() -> None:
    energy = np.arange(200.0, 12000.0, 10.0)

    def peak(at: float, height: float) -> np.ndarray:
        width = np.sqrt(130.0**2 + 2.5 * (at - 5895.0)) / 2.3548
        return height * np.exp(-0.5 * ((energy - at) / width) ** 2)

    rng = np.random.default_rng(0)
    mean = 20 * np.exp(-energy / 4000) + peak(6400, 400) + peak(7058, 50) + peak(8040, 250) + peak(8905, 35)
    found = {feature.element for feature in find_elements(rng.poisson(mean).astype(float), energy, signal="EDS")}
    assert found == {"Fe", "Cu"}


def test_no_element_is_found_in_a_background() -> None:
    energy = np.arange(200.0, 12000.0, 10.0)
    rng = np.random.default_rng(1)
    assert find_elements(rng.poisson(20 * np.exp(-energy / 4000)).astype(float), energy, signal="EDS") == ()


def test_edges_are_named() -> None:
    energy = np.arange(400.0, 900.0, 0.5)
    rng = np.random.default_rng(2)
    background = 2000 * (energy / 400) ** -3.0
    oxygen = 300 * (energy > 532) * (np.maximum(energy, 532) / 532) ** -3.0
    iron = 250 * (energy > 708) * (np.maximum(energy, 708) / 708) ** -3.0 + 500 * np.exp(
        -0.5 * ((energy - 710) / 2.5) ** 2
    )
    spectrum = rng.poisson(background + oxygen + iron).astype(float)
    found = {
        f.element for f in find_elements(spectrum, energy, signal="EELS", candidates=["O", "Fe", "N", "Ti", "Mn", "Ni"])
    }
    assert {"O", "Fe"} <= found
    assert "Ti" not in found
    with pytest.raises(BadInput, match="no element"):
        find_elements(spectrum, energy, signal="EELS", candidates=["Xx"])
    with pytest.raises(BadInput, match="EDS and EELS"):
        find_elements(spectrum, energy, signal="CL")


def _frame(data: np.ndarray, offset: float = 100.0, scale: float = 1.0) -> Frame:
    axes = (Axis(name="y", units="nm"), Axis(name="x", units="nm"))
    return Frame(
        data=data, axes=(*axes, Axis(name="energy_loss", units="eV", scale=scale, offset=offset)), signal="EELS"
    )


def test_preparation_is_undone_and_recorded() -> None:
    data = np.random.default_rng(0).poisson(30, (8, 8, 100)).astype(np.int64)
    prepared = Preparation(_frame(data))
    prepared.apply("crop_energy", first_ev=120, last_ev=179)
    prepared.apply("bin", energy=2, y=2)
    assert prepared.frame.shape == (4, 8, 30)
    assert prepared.frame.axes[2].offset == pytest.approx(120.5)
    assert prepared.frame.data.sum() == data[..., 20:80].sum()
    assert [step["step"] for step in prepared.frame.metadata["preparation"]] == ["crop_energy", "bin"]
    assert prepared.undo()
    assert prepared.frame.shape == (8, 8, 60)
    assert prepared.redo()
    assert prepared.frame.shape == (4, 8, 30)
    with pytest.raises(BadInput, match="channels"):
        prepared.apply("crop_energy", first_ev=1000, last_ev=2000)
    assert len(prepared.steps) == 2


def test_spikes_go_and_lines_stay() -> None:
    rng = np.random.default_rng(0)
    mean = np.full((12, 12, 100), 30.0)
    mean[..., 40] = 200
    data = rng.poisson(mean).astype(float)
    data[5, 6, 70] = 5000
    cleaned = Preparation(_frame(data)).apply("spikes").data
    assert cleaned[5, 6, 70] < 80
    assert cleaned[..., 40].mean() == pytest.approx(200, rel=0.05)


def test_zero_loss_peaks_are_aligned_to_a_fraction_of_a_channel() -> None:
    rng = np.random.default_rng(0)
    shift = rng.uniform(-3, 3, (6, 6))
    energy = -10 + 0.2 * np.arange(200)
    data = rng.poisson(1e4 * np.exp(-0.5 * ((energy - shift[..., None]) / 0.6) ** 2)).astype(float)
    aligned = align_zero_loss(_frame(data, offset=-10.0, scale=0.2)).data
    centres = (aligned * energy).sum(axis=-1) / aligned.sum(axis=-1)
    assert np.abs(centres).max() < 0.05
    with pytest.raises(BadInput, match="0 eV"):
        align_zero_loss(_frame(data, offset=300.0))


@pytest.mark.parametrize(("width_ev", "electrons"), [(0.1, 1e5), (0.4, 1e5), (0.8, 1e4)])
def test_peaks_of_many_channels_are_aligned_as_well_as_counts_allow(width_ev: float, electrons: float) -> None:
    """The upper half of the peak, free of tails, tells its place within 2.2 times what all of its electrons would allow."""
    from napari_smarttem.unmixing.zlp_centre import zero_loss_centres

    rng, channels = np.random.default_rng(0), 0.015 * (np.arange(600) - 300)
    centre = rng.normal(0.0, 0.5 * width_ev, (300, 1))
    peak = np.exp(-4 * np.log(2) * ((channels - centre) / width_ev) ** 2)
    counts = rng.poisson(electrons * peak / peak.sum(axis=1, keepdims=True))
    found = 0.015 * (zero_loss_centres(counts.astype(float)) - 300)
    assert np.std(found - centre[:, 0]) < 2.2 * width_ev / 2.3548 / np.sqrt(electrons)
    assert abs(np.mean(found - centre[:, 0])) < 0.3 * width_ev / 2.3548 / np.sqrt(electrons)


def test_power_law_leaves_nothing_of_a_power_law() -> None:
    energy = 100.0 + np.arange(300)
    data = np.full((4, 4, 1), 50.0) * (energy / 100) ** -2.7
    left = subtract_power_law(_frame(data), first_ev=150, last_ev=200).data
    assert np.abs(left[..., 50:]).max() < 0.002 * data.max()


def test_live_components_keep_their_order() -> None:
    made = sets.easy(6, (24, 24), 256, k=3)
    live = LiveUnmixer(Axis(name="energy_loss", units="eV"), 256, components=3)
    assert live.update() is None
    order = np.random.default_rng(0).permutation(576)
    seen = []
    for number, pixel in enumerate(order, start=1):
        y, x = divmod(int(pixel), 24)
        live.add(y, x, made.data[y, x])
        if number in (300, 576):
            seen.append(live.update())
    assert len(live) == 576
    first, last = seen
    assert last.maps.shape == (3, 1, 576)
    for c in range(3):
        assert np.corrcoef(first.maps[c, 0], last.maps[c, 0, :300])[0, 1] > 0.9
    with pytest.raises(BadInput, match="channels"):
        live.add(0, 0, np.ones(7))


@pytest.mark.real_data
def test_core_shell_separates_core_shell_and_support(shared_data, tmp_path, capsys) -> None:
    file, out = str(shared_data / "core_shell.hspy"), str(tmp_path / "out")
    assert main(["unmix", file, "--out", out, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["components"] == 3
    assert any(name.startswith("Fe") for name in summary["elements"])
    assert any(name.startswith("Pt") for name in summary["elements"])
    support = next(symbols for name, symbols in summary["elements"].items() if not name.startswith(("Fe", "Pt")))
    assert {"Cu", "C"} <= set(support)
    assert summary["residual"] == pytest.approx(1.0, abs=0.05)
    assert (tmp_path / "out" / "result.hspy").exists()


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "components", "seeds"),
    [("core_shell.hspy", 3, 4), ("LSMO_linescan.hspy", 3, 4), ("SiO2_EDS_SI.hspy", 2, 2)],
)
def test_real_answers_are_the_same_for_other_seeds_and_as_near_as_noise_lets_halves_be(
    shared_data, name: str, components: int, seeds: int
) -> None:
    from napari_smarttem.bench.parts.unmixing_real import stability
    from napari_smarttem.io.read import read

    found = stability(max(read(shared_data / name), key=lambda one: one.data.size), seeds)
    assert found.components == components
    assert found.same_number == pytest.approx(1.0)
    assert found.seeds > 0.99
    assert found.of_attainable > 0.97


@pytest.mark.real_data
def test_what_is_left_to_chance_does_not_choose_the_assumption(shared_data) -> None:
    from napari_smarttem.io.read import read

    frame = max(read(shared_data / "SiO2_EDS_SI.hspy"), key=lambda one: one.data.size)
    first, *others = (unmix(frame, seed=seed) for seed in range(4))
    assert {one.method for one in others} == {first.method}
    assert all(match(first, one).mean_correlation > 0.999 for one in others)


def test_command_line_says_what_is_wrong(tmp_path, capsys) -> None:
    assert main(["unmix", str(tmp_path / "absent.hspy")]) == 2
    assert main(["unmix", str(tmp_path / "absent.hspy"), "--components", "many"]) == 2
    broken = tmp_path / "broken.hspy"
    broken.write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 50)
    assert main(["unmix", str(broken)]) == 2
    assert capsys.readouterr().err.count("smarttem:") == 3


@pytest.mark.real_data
@pytest.mark.slow
def test_maps_of_halves_agree_as_well_as_with_the_true_spectra_given(shared_data) -> None:
    from napari_smarttem.bench.parts.unmixing_real import simulated, smoothed, stability
    from napari_smarttem.io.read import read

    frame = max(read(shared_data / "core_shell.hspy"), key=lambda one: one.data.size)
    found, limit = stability(frame, 2), simulated(frame, 2)
    assert np.mean(found.found) > np.mean(limit["simulated_known"]) - 0.01
    assert np.mean(smoothed(frame, 1, "least error")["correlations"]) > np.mean(limit["simulated_smoothed"]) - 0.01


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["core_shell.hspy", "LSMO_linescan.hspy", "SiO2_EDS_SI.hspy"])
def test_repeatable_maps_of_halves_agree_to_a_hundredth(shared_data, name: str) -> None:
    from napari_smarttem.bench.parts.unmixing_real import smoothed
    from napari_smarttem.io.read import read

    frame = max(read(shared_data / name), key=lambda one: one.data.size)
    assert np.mean(smoothed(frame, 1, "repeatable")["correlations"]) >= 0.99


def test_maps_of_few_counts_are_said_to_be_noisy() -> None:
    from napari_smarttem.unmixing.result_notes import notes

    few, many = sets.easy(3, (32, 32), 128, k=2, counts=0.2), sets.easy(3, (32, 32), 128, k=2, counts=30.0)
    assert any("take noise out of the maps" in one for one in notes(unmix(few.data, components=2)))
    assert not any("take noise" in one for one in notes(unmix(many.data, components=2)))
    assert not any("take noise" in one for one in notes(unmix(few.data, components=2, smooth_maps=True)))
