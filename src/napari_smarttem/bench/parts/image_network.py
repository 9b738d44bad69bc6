"""The published way, for comparison: a convolutional network that reads a whole picture, trained on a fixed set of 20 000.

It has as many parameters as this product's network and the same loss, sees frames of 256 pixels binned to 128, and is tried on
films and aberrations of the ranges that it was trained on. What it cannot have is rings: a picture this size does not hold them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...alignment.training import PUBLISHED, PUBLISHED_C1, draw_published
from ...physics.aberrations import ESTIMATED
from ...physics.ronchigram import Film, Geometry, Recording, simulate
from .ronchigrams import good_frames

if TYPE_CHECKING:
    import torch

GEOMETRY = Geometry(300e3, 30.0, 256)
PICTURES = 20_000
EPOCHS = 8
"""About eleven minutes of one core in all: four to make the pictures, over five to learn them, one to read a thousand frames."""
BATCH, RATE = 64, 2e-3
MADE_TOGETHER = 40
ARCHITECTURE = {"kind": "strided", "pixels": 128, "outputs": len(ESTIMATED), "width": 10, "hidden": 294}
"""1.9 million parameters, as the network of local spectra (`models/ronchigram`)."""
MIDDLES = np.array([sum(PUBLISHED_C1) / 2, *[0.0] * 7])
HALF_RANGES = np.array(
    [(PUBLISHED_C1[1] - PUBLISHED_C1[0]) / 2, *(PUBLISHED[name.partition(".")[0]] for name in ESTIMATED[1:])]
)


def image_network(frames: int, chunk: int, seed: int, pictures: int = PICTURES) -> np.ndarray:
    """Train, and read the frames of the bench.

    Parameters
    ----------
    frames, chunk : int
        How many frames of the bench it reads, and how many of them share a random stream (see `ronchigrams.good_frames`).
    seed : int
        Of the bench; also of the pictures it is trained on, which are others, and of the network.
    pictures : int

    Returns
    -------
    ndarray, shape (frames, 2, 8)
        Errors and standard errors, in the units of `physics.aberrations.ESTIMATED`.
    """
    with tempfile.TemporaryDirectory() as folder:
        seen, truth = fixed_set(Path(folder), pictures, seed)
        network = fresh_network(seed)
        for _ in epochs(network, seen, truth, seed):
            pass
        del seen  # a mapped file that is open cannot be removed everywhere
    return read(network, frames, chunk, seed)


def fixed_set(folder: Path, pictures: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as bytes, (pictures, 128, 128), in a file of `folder`, and their coefficients in half-ranges, (pictures, 8)."""
    import torch

    side = GEOMETRY.pixels // 2
    seen = np.memmap(folder / "pictures.u1", dtype=np.uint8, mode="w+", shape=(pictures, side, side))
    truth = np.empty((pictures, len(ESTIMATED)), dtype=np.float32)
    for first in range(0, pictures, MADE_TOGETHER):
        count = min(MADE_TOGETHER, pictures - first)
        rng = np.random.default_rng([seed, 77, first])
        coefficients = draw_published(rng, count)
        film = Film(phase_rms=rng.uniform(0.15, 0.25, count), k0_per_nm=rng.uniform(4.0, 6.0, count))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        recording = Recording(dose_e_per_px=200.0)
        for k in range(0, count, 8):
            part = slice(k, k + 8)
            some = Film(phase_rms=film.phase_rms[part], k0_per_nm=film.k0_per_nm[part])
            frames = simulate(
                GEOMETRY, coefficients[part], ESTIMATED,
                film=some, recording=recording, generator=generator, oversampling=1,
            )  # fmt: skip
            seen[first + k : first + k + len(frames)] = as_bytes(frames)
        truth[first : first + count] = (coefficients - MIDDLES) / HALF_RANGES
    return seen, truth


def as_bytes(frames: torch.Tensor) -> np.ndarray:
    """Frames binned by two, their mean at 128 and twice their mean at 256, (batch, 128, 128)."""
    batch, height, width = frames.shape
    binned = frames.reshape(batch, height // 2, 2, width // 2, 2).sum(dim=(2, 4))
    relative = binned / binned.mean(dim=(1, 2), keepdim=True)
    return np.asarray((128.0 * relative).round().clamp(0, 255).byte().numpy())


def fresh_network(seed: int) -> Any:
    """The network before its training."""
    import torch

    from ...nn.networks import build

    torch.manual_seed(seed)
    return build(ARCHITECTURE).to(memory_format=torch.channels_last)


def epochs(network: Any, seen: np.ndarray, truth: np.ndarray, seed: int, count: int = EPOCHS) -> Iterator[float]:
    """Train, one epoch for each value that is taken; the values are the mean loss of the epoch."""
    import torch

    from ...nn.networks import gaussian_loss

    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    batches = len(seen) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=count * batches, pct_start=0.15)
    rng = np.random.default_rng([seed, 78])
    for _ in range(count):
        network.train()
        order, total = rng.permutation(len(seen)), 0.0
        for batch in range(batches):
            chosen = np.sort(order[batch * BATCH : (batch + 1) * BATCH])
            mean, log_variance = network(given(seen[chosen]), torch.zeros(len(chosen), 0))
            loss = gaussian_loss(mean, log_variance, torch.as_tensor(truth[chosen]))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        yield total / batches


def given(bytes_: np.ndarray) -> torch.Tensor:
    """Bytes as the network takes them: (batch, 1, 128, 128), contrast of about one."""
    import torch

    return (torch.as_tensor(np.ascontiguousarray(bytes_)).float()[:, None] / 128.0 - 1.0) * 5.0


def read(network: Any, frames: int, chunk: int, seed: int) -> np.ndarray:
    """Errors and standard errors on frames of the bench, (frames, 2, 8)."""
    import torch

    network.eval()
    out = []
    for first in range(0, frames, chunk):
        for truth, frame, _ in good_frames(GEOMETRY, min(chunk, frames - first), (seed, first)):
            with torch.inference_mode():
                picture = given(as_bytes(torch.as_tensor(frame)[None]))
                mean, log_variance = network(picture, torch.zeros(1, 0))
            found = mean[0].double().numpy() * HALF_RANGES + MIDDLES
            sigma = np.exp(0.5 * log_variance[0].double().numpy()) * HALF_RANGES
            out.append([found - truth, sigma])
    return np.array(out)
