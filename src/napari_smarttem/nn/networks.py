"""Architectures. Each is built from a plain dict (`build`), which travels with its weights, so that weights load without code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..schema import BadInput


class PatchSpectrumNet(nn.Module):  # type: ignore[misc, unused-ignore]
    """Reads local spectra on a square grid of places: one encoder for all places, then all places together.

    Parameters
    ----------
    bins : int
        Length of one spectrum.
    places : int
        Number of places.
    outputs : int
        Numbers to estimate; each gets a mean and the logarithm of a variance.
    extras : int
        Numbers known for each place (its position, the window's width).
    local_outputs : int
        Numbers estimated at each place, as a help in training.
    width, code : int
        Sizes of the encoder.
    hidden : int
        Size of what joins the places.
    """

    def __init__(
        self, *, bins: int, places: int, outputs: int, extras: int = 3, local_outputs: int = 3,
        width: int = 256, code: int = 48, hidden: int = 320,
    ) -> None:  # fmt: skip
        super().__init__()
        self.first = nn.Linear(bins, width)
        self.encoder = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 128))
        self.place = nn.Linear(extras, 128)
        self.mix = nn.Sequential(nn.GELU(), nn.LayerNorm(128), nn.Linear(128, code))
        self.local = nn.Linear(code, local_outputs)
        self.join = nn.Sequential(nn.GELU(), nn.Linear(places * code, hidden), nn.LayerNorm(hidden), nn.GELU())
        self.deep = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.last = nn.Linear(hidden, 2 * outputs)

    def forward(self, spectra: Tensor, extras: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means and log variances, (batch, outputs) each, and what each place says, (batch, places, local_outputs).

        `spectra` is (batch, places, bins), `extras` (batch, places, extras).
        """
        code = self.mix(self.encoder(self.first(spectra)) + self.place(extras))
        joined = self.join(code.flatten(1))
        joined = joined + self.deep(joined)
        mean, log_variance = self.last(joined).chunk(2, dim=-1)
        return mean, log_variance.clamp(-12.0, 6.0), self.local(code)


class ImageNet(nn.Module):  # type: ignore[misc, unused-ignore]
    """A plain convolutional network on a square image, ending in means and log variances.

    Parameters
    ----------
    channels : int
        Of the image.
    outputs : int
    width : int
        Channels after the first stage; doubled at each of `stages` halvings.
    stages : int
    hidden : int
        Size of the last layer but one.
    """

    def __init__(self, *, channels: int = 1, outputs: int, width: int = 16, stages: int = 4, hidden: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        now = channels
        for stage in range(stages):
            then = width * 2**stage
            layers += [nn.Conv2d(now, then, 3, padding=1), nn.BatchNorm2d(then), nn.ReLU()]
            layers += [nn.Conv2d(then, then, 3, padding=1), nn.BatchNorm2d(then), nn.ReLU(), nn.MaxPool2d(2)]
            now = then
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(16 * now, hidden), nn.ReLU(), nn.Linear(hidden, 2 * outputs))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances, (batch, outputs) each, of images (batch, channels, y, x)."""
        mean, log_variance = self.head(self.features(images)).chunk(2, dim=-1)
        return mean, log_variance.clamp(-12.0, 6.0)


class StridedNet(nn.Module):  # type: ignore[misc, unused-ignore]
    """A lean convolutional network that keeps places: strides instead of pooling, and no average over the picture.

    Parameters
    ----------
    pixels : int
        Side of the square picture, a multiple of 8.
    outputs : int
    extras : int
        Numbers known beside the picture.
    width : int
        Channels after the first stride.
    hidden : int
    """

    def __init__(self, *, pixels: int, outputs: int, extras: int = 0, width: int = 24, hidden: int = 256) -> None:
        super().__init__()
        second, third, kept = 2 * width, 3 * width, 24
        self.first = nn.Sequential(nn.Conv2d(1, width, 5, 2, 2), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, second, 3, 2, 1), nn.BatchNorm2d(second), nn.ReLU())
        self.second_more = nn.Sequential(nn.Conv2d(second, second, 3, 1, 1), nn.BatchNorm2d(second), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(second, third, 3, 2, 1), nn.BatchNorm2d(third), nn.ReLU())
        self.third_more = nn.Sequential(nn.Conv2d(third, third, 3, 1, 1), nn.BatchNorm2d(third), nn.ReLU())
        self.keep = nn.Sequential(nn.Conv2d(third, kept, 1), nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(kept * (pixels // 8) ** 2 + extras, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.last = nn.Linear(hidden, 2 * outputs)

    def forward(self, pictures: Tensor, extras: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances, (batch, outputs) each, of pictures (batch, 1, y, x) and extras (batch, extras)."""
        seen = self.second(self.first(pictures))
        seen = seen + self.second_more(seen)
        seen = self.third(seen)
        seen = seen + self.third_more(seen)
        mean, log_variance = self.last(self.head(torch.cat((self.keep(seen), extras), dim=1))).chunk(2, dim=-1)
        return mean, log_variance.clamp(-12.0, 6.0)


class PatternDecoder(nn.Module):  # type: ignore[misc, unused-ignore]
    """A few settings -> a picture, by a network that knows no physics: dense layers, then convolutions that double the picture.

    Parameters
    ----------
    inputs : int
    pixels : int
        Side of the picture, a multiple of 4.
    width : int
        Of the dense layers.
    """

    def __init__(self, *, inputs: int, pixels: int = 64, width: int = 512) -> None:
        super().__init__()
        self.side = pixels // 4
        self.dense = nn.Sequential(
            nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 8 * self.side**2)
        )
        self.enlarge = nn.Sequential(
            nn.GELU(), nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2),
            nn.GELU(), nn.Conv2d(8, 16, 3, padding=1), nn.PixelShuffle(2),
            nn.GELU(), nn.Conv2d(4, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, settings: Tensor) -> Tensor:
        """Pictures, (batch, pixels, pixels), of settings (batch, inputs)."""
        seen = self.dense(settings).reshape(-1, 8, self.side, self.side)
        return torch.nn.functional.softplus(self.enlarge(seen)[:, 0], beta=4.0)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "patch-spectrum": PatchSpectrumNet,
    "image": ImageNet,
    "strided": StridedNet,
    "pattern-decoder": PatternDecoder,
}
"""Networks by the name under which a card asks for them; other rooms add theirs here."""


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """A network from its description: ``{"kind": "patch-spectrum", "bins": ...}``."""
    settings = dict(architecture)
    kind = settings.pop("kind", None)
    if kind not in ARCHITECTURES:
        raise BadInput(f"there is no architecture {kind!r}; there are {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[kind](**settings)


def gaussian_loss(mean: Tensor, log_variance: Tensor, truth: Tensor, *, beta: float = 0.5) -> Tensor:
    """Negative log-likelihood of a normal distribution, each term weighted by its variance to the power `beta`.

    The weight keeps a network from giving up on what it finds hard (Seitzer et al., ICLR 2022, "On the pitfalls of
    heteroscedastic uncertainty estimation"); 0 is the plain likelihood.
    """
    loss = 0.5 * (log_variance + (truth - mean) ** 2 * torch.exp(-log_variance))
    return (loss * torch.exp(beta * log_variance.detach())).mean() if beta else loss.mean()
