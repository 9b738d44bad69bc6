"""What ``smarttem train ronchigram`` trains: the network that reads local spectra, on data made on the way.

The first half of the way the spectra are drawn from their expected values (fast); then they are those of whole simulated
frames, with everything that a formula leaves out. Voltage, half-angle and frame size are drawn too: half of the batches have the
published ranges at 300 kV and 30 mrad, the others anything from 60 to 300 kV and 15 to 45 mrad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..physics.aberrations import ESTIMATED
from ..physics.ronchigram import Film, Geometry, Recording, simulate
from ..physics.ronchigram_spectrum import expected_spectrum, hann_autocorrelation
from .spectra import (
    BEST_RINGS,
    CELLS,
    NET_BINS,
    NET_HALF,
    RATIO_SCALES,
    Layout,
    extras,
    for_network,
    logarithms,
    network_bins,
    periodograms,
    physical,
    reduced,
    window_pixels,
)

if TYPE_CHECKING:
    import torch

DIRECTIONS, LEVELS = 8, 40
FORMULA_SHARE = 0.5
PUBLISHED_C1 = (-2000.0, -1000.0)
PUBLISHED = {"A1": 100.0, "B2": 1000.0, "A2": 1000.0, "C3": 100.0}
"""Ranges in which the published network was trained: nm, and um for C3; half-ranges but for C1."""


def draw_published(rng: np.random.Generator, count: int, *, wider: float = 1.0) -> np.ndarray:
    """Coefficients evenly in the published ranges, shape (count, 8); `wider` stretches the ranges about their middles."""
    low, high = PUBLISHED_C1
    c1 = rng.uniform(-1, 1, (count, 1)) * wider * (high - low) / 2 + (high + low) / 2
    reach = np.array([PUBLISHED[name.partition(".")[0]] for name in ESTIMATED[1:]])
    return np.concatenate([c1, rng.uniform(-1, 1, (count, 7)) * reach * wider], axis=1)


def draw_film(rng: np.random.Generator, count: int) -> Film:
    """Films of many kinds; values have the shape (count,)."""
    return Film(
        phase_rms=np.exp(rng.uniform(np.log(0.08), np.log(0.4), count)),
        k0_per_nm=rng.uniform(3.0, 8.0, count),
        ring=rng.uniform(0.0, 1.0, count),
        ring_per_nm=rng.uniform(4.0, 5.2, count),
        ring_width_per_nm=rng.uniform(0.5, 1.2, count),
    )


def draw_recording(rng: np.random.Generator, count: int, *, dose: tuple[float, float] = (60.0, 4000.0)) -> Recording:
    """Sources and cameras of many kinds; values have the shape (count,)."""
    return Recording(
        dose_e_per_px=np.exp(rng.uniform(np.log(dose[0]), np.log(dose[1]), count)),
        source_sigma_nm=rng.uniform(0.005, 0.04, count),
        focal_spread_nm=rng.uniform(0.5, 6.0, count),
        mtf_sigma_px=rng.uniform(0.3, 0.8, count),
        gain_ripple=rng.uniform(0.0, 0.02, count) * (rng.random() < 0.5),
        specks=float(rng.choice([0.0, 0.0, 1.0, 3.0])),
    )


def draw_layout(rng: np.random.Generator, count: int) -> tuple[Layout, np.ndarray]:
    """A geometry with its windows, and coefficients (count, 8) that fit them."""
    if rng.random() < 0.6:
        geometry = Geometry(300e3, 30.0, 512 if rng.random() < 0.65 else 256)
        return Layout(geometry, window_pixels(geometry, -1500.0)), draw_published(rng, count, wider=1.15)
    pixels = 512 if rng.random() < 0.65 else 256
    geometry = Geometry(rng.uniform(60e3, 300e3), rng.uniform(15.0, 45.0), pixels)
    middle = -np.exp(rng.uniform(np.log(300.0), np.log(3000.0)))
    layout = Layout(geometry, window_pixels(geometry, middle))
    rings = -middle * layout.width_rad**2 / geometry.wavelength_nm
    rings = float(np.clip(rings, 0.7 * BEST_RINGS, 260.0))
    values = rng.uniform(-1, 1, (count, 8))
    values[:, 0] = (np.log(rings / 60.0) + 0.35 * values[:, 0]) / RATIO_SCALES[0]
    spread = np.exp(rng.uniform(np.log(0.1), np.log(1.3), (count, 1)))  # well-corrected columns too
    values[:, 1:] *= spread
    return layout, physical(values, layout)


class RonchigramTask:
    """See `nn.training.Task`."""

    name = "ronchigram"
    steps = 4000
    batch = 32
    rate = 1e-3

    def architecture(self) -> dict[str, Any]:
        """One encoder for all places, then all places together."""
        return {
            "kind": "patch-spectrum",
            "bins": NET_BINS,
            "places": CELLS * CELLS,
            "outputs": len(ESTIMATED),
            "width": DIRECTIONS * LEVELS,
        }

    def prepare(self, network: Any) -> None:
        """Let the first layer begin as what one would look for: Thon rings of 40 spacings in 8 directions."""
        import torch

        bins = network_bins()
        radius2 = (bins**2).sum(dim=-1)
        angle = torch.atan2(bins[:, 0], bins[:, 1])
        rows = []
        for direction in range(DIRECTIONS):
            axis = np.pi * direction / DIRECTIONS
            sector = torch.cos(angle - axis).abs() ** 12
            for rings in np.geomspace(20.0, 280.0, LEVELS):
                seen = hann_autocorrelation(2 * radius2.sqrt() / rings)
                fringe = torch.cos(2 * np.pi * radius2 / rings) * seen * sector * (radius2 > 2.3)
                fringe = fringe - fringe.mean()
                rows.append(fringe / fringe.norm())
        with torch.no_grad():
            network.first.weight.copy_(-0.25 * torch.stack(rows))
            network.first.bias.zero_()

    def data(self, step: int, steps: int, seed: int, batch: int, device: str) -> Any:
        """Spectra, what is known of each cell, reduced coefficients, and the curvature of each cell."""
        import torch

        rng = np.random.default_rng([seed, 3, step])
        layout, coefficients = draw_layout(rng, batch)
        film, recording = draw_film(rng, batch), draw_recording(rng, batch)
        generator = torch.Generator(device=device).manual_seed(int(rng.integers(2**62)))
        if step < FORMULA_SHARE * steps:
            spectra = formula_spectra(layout, coefficients, film, recording, generator)
            known = extras(layout, batch)
        else:
            pieces = []
            for k in range(0, batch, 4):
                part = slice(k, k + 4)
                frames = simulate(
                    layout.geometry,
                    coefficients[part],
                    ESTIMATED,
                    film=_part(film, part),
                    recording=_part(recording, part),
                    generator=generator,
                    oversampling=1,
                    device=device,
                )
                pieces.append(periodograms(frames, layout))
            spectra, known = for_network(torch.cat(pieces), layout)
        truth = torch.as_tensor(reduced(coefficients, layout), dtype=torch.float32)
        local = local_truth(layout, coefficients)
        # A mirrored frame is a frame too; making one costs nothing, simulating one does.
        views = rng.permutation(7)[: 1 if step < FORMULA_SHARE * steps else 3] + 1
        whole = (spectra.cpu(), truth, local)
        parts = [whole, *(mirrored(*whole, view=int(view)) for view in views)]
        spectra, truth, local = (torch.cat([p[k] for p in parts]).to(device) for k in range(3))
        return spectra, known[:1].expand(len(spectra), -1, -1).to(device), truth, local

    def loss(self, network: Any, data: Any) -> Any:
        """Likelihood of the coefficients, and squares of the local curvatures as a help."""
        from ..nn.networks import gaussian_loss

        spectra, known, truth, local = data
        mean, log_variance, at_places = network(spectra, known)
        help_along = ((at_places - local) ** 2).clamp(max=4.0).mean()
        return gaussian_loss(mean, log_variance, truth) + 0.3 * help_along

    def validate(self, network: Any, device: str) -> dict[str, float]:
        """Mean absolute errors on frames of the published ranges, 300 kV, 30 mrad, 200 electrons per pixel."""
        import torch

        figures: dict[str, float] = {}
        score = 0.0
        for pixels, count in ((512, 64), (256, 64)):
            rng = np.random.default_rng([987654, pixels])
            geometry = Geometry(300e3, 30.0, pixels)
            layout = Layout(geometry, window_pixels(geometry, -1500.0))
            coefficients = draw_published(rng, count)
            generator = torch.Generator(device=device).manual_seed(987654)
            found, sigma = [], []
            for k in range(0, count, 8):
                frames = simulate(
                    geometry, coefficients[k : k + 8], ESTIMATED, generator=generator, oversampling=1, device=device
                )
                with torch.no_grad():
                    mean, log_variance, _ = network(*for_network(periodograms(frames, layout), layout))
                found.append(mean.cpu().double().numpy())
                sigma.append(np.exp(0.5 * log_variance.cpu().double().numpy()))
            reduced_error = np.concatenate(found) - reduced(coefficients, layout)
            error = np.abs(physical(np.concatenate(found), layout) - coefficients).mean(axis=0)
            for name, value in zip(ESTIMATED, error, strict=True):
                figures[f"mae_{name.replace('.', '')}_{pixels}"] = float(value)
            figures[f"within_1_sigma_{pixels}"] = float((np.abs(reduced_error) < np.concatenate(sigma)).mean())
            score += float(np.abs(reduced_error).mean())
        return figures | {"score": score}

    def card(self) -> dict[str, Any]:
        """Data and ranges."""
        return {
            "purpose": "start values of the aberrations from the local spectra of one Ronchigram, to be refined on the likelihood",
            "data": "simulated on the way, never twice: the first part of the training draws spectra from their expected values, "
            "the rest takes them from whole simulated frames of amorphous films",
            "ranges": {
                "published half": "300 kV, 30 mrad, 512 or 256 px; C1 -2000..-1000 nm, A1 +-100 nm, B2 and A2 +-1 um, C3 +-100 um, "
                "each 15 % wider",
                "other half": "60-300 kV, 15-45 mrad, 512 or 256 px; C1 -300..-3000 nm, the others in proportion",
                "film": "phase 0.08-0.4 rad rms, fall-off 3-8 /nm, ring at 4.0-5.2 /nm",
                "recording": "60-4000 e/px, source 0.005-0.04 nm, focal spread 0.5-6 nm, blur 0.3-0.8 px, ripple 0-2 %, specks",
            },
            "licence": "GPL-3.0-or-later, as the code that made them",
        }


def formula_spectra(
    layout: Layout, coefficients: np.ndarray, film: Film, recording: Recording, generator: torch.Generator
) -> torch.Tensor:
    """Averaged spectra drawn from what is expected, as the network is given them: (batch, cells², NET_BINS)."""
    import torch

    def column(values: Any) -> Any:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32).reshape(-1, 1, 1)

    curvature = torch.as_tensor(np.tensordot(coefficients, layout.cell_curvature_basis(), axes=1), dtype=torch.float32)
    film = Film(**{name: column(value) for name, value in vars(film).items()})
    expected = expected_spectrum(
        curvature,
        network_bins(),
        width_rad=layout.width_rad,
        wavelength_nm=layout.geometry.wavelength_nm,
        pixel_rad=layout.geometry.pixel_rad,
        film=film,
        recording=Recording(
            dose_e_per_px=column(recording.dose_e_per_px),
            source_sigma_nm=column(recording.source_sigma_nm),
            focal_spread_nm=column(recording.focal_spread_nm),
            mtf_sigma_px=column(recording.mtf_sigma_px),
        ),
    )
    # Four overlapping windows make an average of about two independent ones.
    draws = torch.rand((2, *expected.shape), generator=generator).clamp(min=1e-7)
    return logarithms(expected * (-draws.log()).mean(dim=0))


def local_truth(layout: Layout, coefficients: np.ndarray) -> torch.Tensor:
    """Ring number and the two astigmatisms of each cell, (batch, cells², 3), scaled as the reduced coefficients."""
    import torch

    curvature = np.tensordot(coefficients, layout.cell_curvature_basis(), axes=1)
    yy, yx, xx = (curvature[..., k] for k in range(3))
    middle = 0.5 * (yy + xx)
    rings = np.abs(middle) * layout.width_rad**2 / layout.geometry.wavelength_nm
    parts = [np.log(rings / 60.0) / 0.5, (yy - xx) / (2 * middle) / 0.2, yx / middle / 0.2]
    return torch.as_tensor(np.stack(parts, axis=-1), dtype=torch.float32).clamp(-6.0, 6.0)


def mirrored(
    spectra: torch.Tensor, truth: torch.Tensor, local: torch.Tensor, *, view: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Spectra, reduced coefficients and local curvatures of the mirrored frame.

    Parameters
    ----------
    view : int
        1 turns y over, 2 turns x over, 4 then swaps y and x; sums do several.
    """
    import torch

    batch = len(spectra)
    bins = spectra.reshape(batch, CELLS, CELLS, 2 * NET_HALF, NET_HALF + 1)
    places = local.reshape(batch, CELLS, CELLS, 3).clone()
    c1, c3 = truth[:, 0], truth[:, 7]
    a1, b2, a2 = (torch.complex(truth[:, k], truth[:, k + 1]) for k in (1, 3, 5))
    turned = torch.remainder(-torch.arange(2 * NET_HALF), 2 * NET_HALF)
    if view & 1:
        bins, places = bins.flip(1)[:, :, :, turned], places.flip(1)
        a1, b2, a2 = a1.conj(), b2.conj(), a2.conj()
    if view & 2:
        bins, places = bins.flip(2)[:, :, :, turned], places.flip(2)
        a1, b2, a2 = a1.conj(), -b2.conj(), -a2.conj()
    if view & 1 or view & 2:
        places = places * torch.tensor([1.0, 1.0, -1.0 if (view & 3) != 3 else 1.0])
    if view & 4:
        jy = torch.cat([torch.arange(NET_HALF), torch.arange(-NET_HALF, 0)])[:, None]
        jx = torch.arange(NET_HALF + 1)[None, :]
        sign = torch.where(jy < 0, -1, 1)  # the half plane holds only one of a bin and its opposite
        rows = torch.remainder(sign * jx, 2 * NET_HALF)
        bins = bins.transpose(1, 2)[:, :, :, rows, (sign * jy).expand_as(rows)]
        places = places.transpose(1, 2) * torch.tensor([1.0, -1.0, 1.0])
        a1, b2, a2 = -a1.conj(), -1j * b2.conj(), -1j * a2.conj()
    mixed = torch.stack([c1, a1.real, a1.imag, b2.real, b2.imag, a2.real, a2.imag, c3], dim=-1)
    return bins.reshape_as(spectra), mixed, places.reshape_as(local)


def _part(record: Any, part: slice) -> Any:
    """Film or Recording of some of the frames."""
    fields = {k: v[part] if isinstance(v, np.ndarray) else v for k, v in vars(record).items()}
    return type(record)(**fields)


def task() -> RonchigramTask:
    """The trainer registered as ``ronchigram``."""
    return RonchigramTask()
