"""How much one Ronchigram tells, without windows or local spectra: the exact Cramer-Rao bound, beside the one in use.

For a weak film a frame is linear in the film's phase, y = A v + noise, with v white and A the forward model (Fresnel propagation,
aberrations, source, camera); y is Gaussian with covariance K = A A' + 1/dose. The Fisher information of two coefficients is
half the trace of K^-1 dK_a K^-1 dK_b. No matrix of 65 536 x 65 536 is ever formed: K is applied by Fourier transforms, inverted by
conjugate gradients, differentiated by central differences and traced with random signs (Hutchinson; one of them sums over so many
independent pixels that it tells the information to a per cent).

The bound in use (`alignment.bound`) takes spectra for local and rings for resolved everywhere, and leaves out what the envelope
tells. If it promised more than a frame can tell, its ratio to the exact one would lie below 1.

    python docs/crosscheck/ronchigram_exact_bound.py [FRAMES]

About ten seconds of one core a frame of 256 pixels; prints JSON.
"""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import torch

from napari_smarttem.alignment import bound
from napari_smarttem.alignment.training import draw_published
from napari_smarttem.physics import ronchigram
from napari_smarttem.physics.aberrations import ESTIMATED, curvature_basis, wave_basis
from napari_smarttem.physics.ronchigram import Film, Geometry, Recording

SEED, PROBES = 20261121, 2
FIRST, REST = slice(0, 3), slice(3, 8)
"""Of `ESTIMATED`: C1 and A1, which are the propagation, and the others, which are the pupil."""


class WeakFilm:
    """Frames of a weak film: relative intensity less one, as a linear map of white noise.

    Parameters
    ----------
    coefficients : ndarray, shape (8,)
    oversampling : int
        Grid points per pixel.
    """

    def __init__(
        self, geometry: Geometry, coefficients: np.ndarray, film: Film, recording: Recording, oversampling: int
    ) -> None:
        self.pixels, self.over, self.noise = geometry.pixels, oversampling, 1 / recording.dose_e_per_px
        step, wavelength = geometry.pixel_rad / oversampling, geometry.wavelength_nm
        self.size = ronchigram.nice_size(geometry.pixels * ronchigram.GUARD) * oversampling
        self.margin = (self.size - geometry.pixels * oversampling) // 2
        zero = np.zeros(())
        yy, yx, xx = coefficients[FIRST] @ curvature_basis(ESTIMATED[FIRST], zero, zero)
        determinant = yy * xx - yx**2
        s = torch.fft.fftfreq(self.size, d=step)
        sy, sx = s[:, None], s[None, :]
        qy, qx = (xx * sy - yx * sx) / determinant, (yy * sx - yx * sy) / determinant
        q2 = qy**2 + qx**2
        gamma = math.pi * wavelength * (qy * sy + qx * sx)
        self.kernel = torch.polar(torch.ones_like(gamma), gamma)

        def spectrum(squared: torch.Tensor) -> torch.Tensor:
            ring = torch.exp(-0.5 * ((squared.sqrt() - film.ring_per_nm) / film.ring_width_per_nm) ** 2)
            return 1 / (1 + squared / film.k0_per_nm**2) ** 2 + film.ring * ring

        radii = torch.linspace(0, 5, 257)
        total = torch.trapezoid(2 * math.pi * radii * spectrum(radii**2), radii)
        half = self.size // 2 + 1
        power = spectrum(q2) / total * film.phase_rms**2 / abs(determinant) / step**2
        self.amplitude = power.sqrt()[:, :half]
        at = (np.arange(self.size) + 0.5 - self.size / 2) * step
        y, x = np.meshgrid(at, at, indexing="ij")
        chi = np.tensordot(coefficients[REST] * 2 * math.pi / wavelength, wave_basis(ESTIMATED[REST], y, x), axes=1)
        phase = torch.as_tensor(np.remainder(chi, 2 * math.pi).astype(np.float32))
        taper = ronchigram._window(self.size, oversampling, geometry, recording, at=at, device="cpu")
        pupil = torch.polar(torch.ones_like(phase), -phase) * taper
        self.probe = torch.fft.ifft2(torch.fft.fft2(pupil) * self.kernel)
        self.reference = 2j * pupil.conj()
        focal = wavelength * recording.focal_spread_nm * q2[:, :half]
        source = recording.source_sigma_nm**2 * q2[:, :half]
        camera = (recording.mtf_sigma_px * geometry.pixel_rad) ** 2 * (sy**2 + sx[:, :half] ** 2)
        self.blur = torch.exp(-2 * math.pi**2 * (source + camera + focal**2 / 4))
        if oversampling == 1:
            self.blur = self.blur * torch.sinc(sy * geometry.pixel_rad) * torch.sinc(sx[:, :half] * geometry.pixel_rad)

    def _filtered(self, image: torch.Tensor, transfer: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(image) * transfer, s=(self.size, self.size))

    def frame(self, white: torch.Tensor) -> torch.Tensor:
        """A v, shape (pixels, pixels)."""
        scattered = torch.fft.fft2(self._filtered(white, self.amplitude) * self.probe)
        wave = torch.fft.ifft2(scattered * self.kernel.conj())
        image = self._filtered((self.reference * wave).real, self.blur)
        inside = slice(self.margin, self.margin + self.pixels * self.over)
        return image[inside, inside].reshape(self.pixels, self.over, self.pixels, self.over).mean(dim=(1, 3))

    def adjoint(self, frame: torch.Tensor) -> torch.Tensor:
        """A' y, shape (size, size)."""
        image = torch.zeros(self.size, self.size)
        inside = slice(self.margin, self.margin + self.pixels * self.over)
        image[inside, inside] = frame.repeat_interleave(self.over, 0).repeat_interleave(self.over, 1) / self.over**2
        wave = torch.fft.fft2(self.reference.conj() * self._filtered(image, self.blur))
        back = (self.probe.conj() * torch.fft.ifft2(wave * self.kernel)).real
        return self._filtered(back, self.amplitude)

    def covariance(self, frame: torch.Tensor) -> torch.Tensor:
        """K y."""
        return self.frame(self.adjoint(frame)) + self.noise * frame

    def solved(self, frame: torch.Tensor, tolerance: float = 1e-3) -> torch.Tensor:
        """K^-1 y, by conjugate gradients."""
        found, rest = torch.zeros_like(frame), frame.clone()
        direction, size = rest.clone(), float((rest**2).sum())
        wanted = tolerance**2 * size
        for _ in range(100):
            image = self.covariance(direction)
            length = size / float((direction * image).sum())
            found += length * direction
            rest -= length * image
            before, size = size, float((rest**2).sum())
            if size < wanted:
                return found
            direction = rest + size / before * direction
        raise SystemExit("the conjugate gradients did not converge")


def exact(geometry: Geometry, coefficients: np.ndarray, film: Film, steps: np.ndarray, seed: int) -> np.ndarray:
    """Smallest possible standard errors, shape (8,); `steps` are those of the central differences."""
    recording = Recording()
    over = max(2, min(4, ronchigram.needed_oversampling(geometry, coefficients[None], ESTIMATED)))
    model = WeakFilm(geometry, coefficients, film, recording, over)
    shifted = [
        [WeakFilm(geometry, coefficients + sign * step * row, film, recording, over) for sign in (1, -1)]
        for step, row in zip(steps, np.eye(8), strict=True)
    ]
    generator = torch.Generator().manual_seed(seed)
    fisher = np.zeros((8, 8))
    for _ in range(PROBES):
        signs = torch.randint(0, 2, (geometry.pixels, geometry.pixels), generator=generator).float() * 2 - 1
        solved = model.solved(signs)
        left, right = (
            [(up.covariance(z) - down.covariance(z)) / (2 * h) for (up, down), h in zip(shifted, steps, strict=True)]
            for z in (solved, signs)
        )
        right = [model.solved(image) for image in right]
        fisher += 0.5 * np.array([[float((a * b).sum()) for b in right] for a in left]) / PROBES
    return np.sqrt(np.diag(np.linalg.inv((fisher + fisher.T) / 2)))


def main(frames: int) -> None:
    """Compare the two bounds on `frames` frames of the published ranges, and print what comes of it."""
    geometry, rng = Geometry(300e3, 30.0, 256), np.random.default_rng(SEED)
    rows = []
    with torch.inference_mode():
        for number in range(frames):
            coefficients = draw_published(rng, 1)[0]
            film = Film(phase_rms=rng.uniform(0.15, 0.25), k0_per_nm=rng.uniform(4.0, 6.0))
            used = bound.standard_errors(geometry, coefficients, film=film)
            rows.append([used, exact(geometry, coefficients, film, used / 4, SEED + number)])
            print(number, np.round(rows[-1][0] / rows[-1][1], 2), file=sys.stderr)
    used, best = np.mean(rows, axis=0)
    report = {
        "frames": frames,
        "pixels": geometry.pixels,
        "standard_errors_exact": dict(zip(ESTIMATED, np.round(best, 3).tolist(), strict=True)),
        "standard_errors_in_use": dict(zip(ESTIMATED, np.round(used, 3).tolist(), strict=True)),
        "in_use_over_exact": dict(zip(ESTIMATED, np.round(used / best, 3).tolist(), strict=True)),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
