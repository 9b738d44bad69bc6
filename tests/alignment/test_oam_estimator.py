"""The trained estimator, its training task, and what the network is shown."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.alignment.oam_training import SorterTask, reduced
from napari_smarttem.alignment.targets.fit import search
from napari_smarttem.alignment.targets.oam_sorter import MODEL, OamSorterTarget
from napari_smarttem.physics.oam import frames
from napari_smarttem.physics.oam_range import HALF_RANGES, draw

from .toy_optics import SorterBench, drive, notes

torch = pytest.importorskip("torch", reason="the network needs torch")


@pytest.fixture(scope="module")
def target():
    torch.set_num_threads(1)
    return OamSorterTarget()


@pytest.fixture(scope="module")
def fresh(target):
    """300 pictures that nothing was trained or chosen on: truth, counts."""
    rng = np.random.default_rng(777)
    truth = draw(300, rng)
    electrons = 10 ** rng.uniform(4, 5, len(truth))
    return truth, frames(target.pictures(truth), electrons, rng)


def r2(values, truth):
    return 1 - np.mean((values - truth) ** 2, axis=0) / np.var(truth, axis=0)


def test_network_alone_explains_98_percent_of_every_parameter(target, fresh):
    truth, counts = fresh
    values, variances = target.read(counts)
    assert r2(values, truth).min() >= 0.98
    assert variances.min() > 0


def test_refined_estimates_are_better_and_their_error_bars_honest(target, fresh):
    truth, counts = (part[:60] for part in fresh)
    rng = np.random.default_rng(1)
    fits = [search(target, one, [target.guess(one)], rng) for one in counts]
    values = np.array([fit.values for fit in fits])
    assert r2(values, truth).min() > 0.999
    pulls = (values - truth) / [fit.sigma for fit in fits]
    assert 0.60 < np.mean(np.abs(pulls) < 1) < 0.76
    assert np.mean(np.abs(pulls) < 2) > 0.91


def test_card_says_how_it_was_made(target):
    card = target._model.card
    assert card["training"]["samples"] >= 20_000
    assert card["metrics"]["r2_df"] > 0.98
    assert card["bytes"] < 10e6
    assert f"smarttem train {MODEL.replace('_', '-')}" in card["training"]["command"].replace("_", "-")


def test_brightness_is_not_in_the_picture_but_beside_it():
    counts = np.random.default_rng(0).poisson(5.0, (2, 64, 64)).astype(np.float32)
    pictures, extras = reduced(counts)
    brighter, more = reduced(4 * counts)
    assert np.allclose(pictures, brighter)
    assert np.allclose(more - extras, np.log10(4))
    assert np.mean(pictures**2) == pytest.approx(1.0, rel=1e-5)
    assert np.isfinite(reduced(np.zeros((1, 64, 64), dtype=np.float32))[0]).all()


def test_training_data_depend_on_seed_and_step_alone():
    task = SorterTask()
    first, again = (task.data(5, 100, 1, 3, "cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], task.data(6, 100, 1, 3, "cpu")[0])
    assert not torch.equal(first[0], task.data(5, 100, 2, 3, "cpu")[0])
    assert first[2].abs().max() <= 1.2


def test_some_steps_of_training_teach_something(tmp_path):
    from napari_smarttem.nn.registry import load
    from napari_smarttem.nn.training import train

    class Short(SorterTask):
        def validate(self, network, device):
            torch.manual_seed(0)
            pictures, extras, truth = self.data(10_000, 1, 9, 64, device)
            with torch.no_grad():
                return {"score": float(torch.mean((network(pictures, extras)[0] - truth) ** 2))}

    folder = train(Short(), tmp_path / MODEL, steps=40, batch=16, threads=1, say=lambda line: None)
    chance = 1.2**2 / 3
    assert load(str(folder)).card["metrics"]["score"] < 0.85 * chance


def test_loop_with_the_network(target):
    bench = SorterBench(31)
    outcome, steps = drive(target, bench, response=bench.part.response.tolist())
    assert outcome.verdict == "aligned"
    assert target.merit(bench.part.misalignment()) > 0.97
    assert outcome.frames <= 5
    assert notes(steps)["estimate-000"].data["made_with"] == {"model": MODEL, "sha256": target._model.card["sha256"]}
    assert OamSorterTarget().uses_network


def test_published_gain_needs_many_more_pictures(target):
    bench = SorterBench(31)
    outcome, _ = drive(target, bench, response=bench.part.response.tolist(), fixed_gain=0.2, refine=False, frames=8)
    assert outcome.verdict == "out of frames"
    assert np.abs(bench.part.misalignment() / HALF_RANGES).max() > 0.05


def test_command_trains_and_goes_on_where_it_stopped(tmp_path, capsys):
    from napari_smarttem.cli import main
    from napari_smarttem.nn.registry import load

    command = ["train", "oam-sorter", "--steps", "4", "--batch", "4", "--threads", "1", "--out", str(tmp_path / MODEL)]
    assert main(command) == 0
    assert main(command) == 0
    assert "going on from step 4" in capsys.readouterr().err
    assert load(str(tmp_path / MODEL)).card["training"]["steps_done"] == 4
