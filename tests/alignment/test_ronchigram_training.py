"""Training the network of local spectra twice gives the same network, bit by bit."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from napari_smarttem.alignment.training import RonchigramTask  # noqa: E402
from napari_smarttem.nn.training import train  # noqa: E402


class Short(RonchigramTask):
    """The same data and loss; its figures, which take a hundred large frames, are left out."""

    def validate(self, network, device):
        return {"score": 0.0}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def weights(folder, seed, **options):
    made = train(Short(), folder, seed=seed, steps=4, batch=2, threads=1, say=lambda text: None, **options)
    return (made / "weights.safetensors").read_bytes(), next((made / "checkpoint").glob("*.safetensors")).read_bytes()


def test_two_trainings_with_one_seed_give_the_same_bits(tmp_path):
    # four steps: two of spectra drawn from a formula, two of whole simulated frames
    first, second = (weights(tmp_path / name, 3) for name in ("one", "two"))
    assert first == second
