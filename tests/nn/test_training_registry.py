"""One training loop and one registry: a killed training goes on as if it had not been, and foreign weights are refused."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from napari_smarttem.nn import registry  # noqa: E402
from napari_smarttem.nn.networks import build, gaussian_loss  # noqa: E402
from napari_smarttem.nn.training import train  # noqa: E402
from napari_smarttem.schema import BadInput  # noqa: E402


class Line:
    """Learns y = 2 x: small enough for a test, and with a known answer."""

    name = "line"
    steps, batch, rate = 150, 16, 0.01

    def architecture(self):
        return {"kind": "patch-spectrum", "bins": 4, "places": 2, "outputs": 1, "extras": 3, "width": 16, "hidden": 16}

    def prepare(self, network):
        with torch.no_grad():
            network.last.bias.zero_()

    def data(self, step, steps, seed, batch, device):
        generator = torch.Generator().manual_seed(1000 * seed + step)
        x = torch.rand((batch, 2, 4), generator=generator)
        return x, 2 * x[:, 0, :1]

    def loss(self, network, data):
        x, y = data
        mean, log_variance, _ = network(x, torch.zeros(len(x), 2, 3))
        return gaussian_loss(mean, log_variance, y)

    def validate(self, network, device):
        x, y = self.data(10**6, 1, 99, 256, device)
        with torch.no_grad():
            mean, _, _ = network(x, torch.zeros(len(x), 2, 3))
        return {"score": float((mean - y).abs().mean())}

    def card(self):
        return {"data": "a line"}


def quiet(_line):
    """Says nothing."""


def weights(folder):
    return registry.load(str(folder)).network.state_dict()


def test_a_training_learns_and_says_how_it_was_made(tmp_path):
    folder = train(Line(), tmp_path / "line", seed=3, say=quiet)
    card = json.loads((folder / "card.json").read_text())
    assert card["metrics"]["score"] < 0.15
    assert card["sha256"] == registry.sha256(folder / "weights.safetensors")
    assert card["training"]["seed"] == 3
    assert "smarttem train line --seed 3" in card["training"]["command"]
    assert "a line" in (folder / "card.md").read_text()
    assert registry.load(str(folder)).provenance == {"model": "line", "sha256": card["sha256"]}


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    whole = train(Line(), tmp_path / "whole", seed=1, steps=20, say=quiet)
    task = Line()
    seen = []
    data = task.data

    def until_killed(step, *rest):
        if step == 11 and not seen:
            seen.append(step)
            raise KeyboardInterrupt
        return data(step, *rest)

    task.data = until_killed
    with pytest.raises(KeyboardInterrupt):
        train(task, tmp_path / "parts", seed=1, steps=20, say=quiet, checkpoint_s=0.0)
    assert json.loads((tmp_path / "parts" / "checkpoint" / "state.json").read_text())["step"] == 11
    parts = train(task, tmp_path / "parts", seed=1, steps=20, say=quiet)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(tensor, weights(parts)[name])


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    train(Line(), tmp_path / "line", seed=1, steps=5, say=quiet)
    with pytest.raises(BadInput, match="another training"):
        train(Line(), tmp_path / "line", seed=2, steps=5, say=quiet)


def test_weights_that_are_not_the_cards_are_refused(tmp_path):
    folder = train(Line(), tmp_path / "line", seed=1, steps=5, say=quiet)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"sha256": "0" * 64}))
    with pytest.raises(BadInput, match="not used"):
        registry.load(str(folder))


def test_unknown_names_are_answered_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTTEM_MODELS", str(tmp_path))
    with pytest.raises(BadInput, match="smarttem train nothing-like-it"):
        registry.load("nothing-like-it")
    with pytest.raises(BadInput, match="no architecture 'magic'"):
        build({"kind": "magic"})
