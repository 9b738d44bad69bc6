"""Ronchigrams of another program: abTEM's multislice of films made of single atoms, and how ours compares.

abTEM is not a dependency of this package and needs an environment of its own::

    python -m venv abtem-environment
    abtem-environment/bin/pip install "abtem==1.0.11" ase pydantic
    PYTHONPATH=src abtem-environment/bin/python docs/crosscheck/ronchigram_abtem.py simulate WORK
    python docs/crosscheck/ronchigram_abtem.py compare WORK       # with this package installed, torch too
    python docs/crosscheck/ronchigram_abtem.py pack WORK frames.npz

`simulate` places carbon atoms at random with a smallest distance, builds their potential slice by slice (independent atoms,
Lobato's scattering factors), sends a convergent wave with the aberrations of a frame through it, and sums the diffraction
pattern into the pixels of a camera of +-30 mrad. The wave fills a square of +-36 mrad with soft edges (cut by a disc of 47
mrad), so that what scatters into the frame from beyond its edge is there. Point source, one energy, a perfect camera: no blur but
that of the pixel. About half a minute of one core and 3 GB of memory a frame; frames that are there already are not made again.

`compare` holds a multislice frame against this package's forward model for the same atoms: the projected phase is abTEM's, all
else is ours. `pack` writes the frames, quantised, for the bench (``smarttem bench alignment``), which adds the shot noise.

The aberrations are drawn evenly in half the published ranges (C1 -1000..-500 nm, A1 +-50 nm, B2 and A2 +-0.5 um, C3 +-50 um): the
field that is lit, and with it time and memory, grow with the square of the defocus.

C1 is that of the middle of the film: abTEM's probe is stated at the entrance, and its slices act at their upper faces.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

KV, HALF_ANGLE_MRAD, PIXELS = 300e3, 30.0, 512
LIT_MRAD, SOFT_MRAD, ROUND_MRAD = 36.0, 2.0, 47.0
CUTOFF_PER_NM = 24.5
"""Up to here abTEM keeps the wave: two thirds of what the grid could hold."""
SMALLEST_DISTANCE_NM = 0.14
SLICE_NM = 2.5
RANGES = 0.5
"""Of the published ones."""
COUNT = 8


def drawn(number: int) -> dict[str, Any]:
    """What frame `number` is of: coefficients (8,) of the published ranges, thickness in nm, atoms per nm³."""
    from napari_smarttem.alignment.training import draw_published

    rng = np.random.default_rng([20261121, number])
    return {
        "coefficients": RANGES * draw_published(rng, 1)[0],
        "slices": int(rng.integers(2, 5)),
        "per_nm3": float(rng.uniform(90.0, 110.0)),
    }


def amorphous(rng: np.random.Generator, side_nm: float, thickness_nm: float, per_nm3: float) -> np.ndarray:
    """Atoms at random, none nearer to another than the smallest distance, (n, 3) in nm; tile by tile."""
    tiles = int(np.ceil(side_nm / 30.0))
    wide = side_nm / tiles
    found = []
    for y in range(tiles):
        for x in range(tiles):
            box = np.array([wide, wide, thickness_nm])
            count = round(per_nm3 * float(box.prod()))
            found.append(placed(rng.random((4 * count, 3)) * box, box, count) + np.array([x * wide, y * wide, 0.0]))
    return np.concatenate(found)


def placed(proposed: np.ndarray, box: np.ndarray, count: int) -> np.ndarray:
    """The first `count` of the proposed places that keep the distance to those before them."""
    cells = np.ceil(box / SMALLEST_DISTANCE_NM * np.sqrt(3)).astype(np.int64) + 1
    kept = _compiled()(proposed, cells, SMALLEST_DISTANCE_NM, count)
    if len(kept) < count:
        raise SystemExit(f"only {len(kept)} of {count} atoms fit at this density")
    return np.asarray(kept)


@functools.cache
def _compiled() -> Any:
    import numba

    return numba.njit(_sequential)


def _sequential(proposed, cells, distance, count):  # numba compiles it: no annotations
    """Random sequential adsorption with cells that hold at most one atom."""
    edge = distance / np.sqrt(3)
    holds = np.full((cells[0], cells[1], cells[2]), -1, dtype=np.int32)
    kept = np.empty((count, 3))
    n = 0
    for k in range(len(proposed)):
        if n == count:
            break
        i, j, m = int(proposed[k, 0] / edge), int(proposed[k, 1] / edge), int(proposed[k, 2] / edge)
        free = True
        for a in range(max(0, i - 2), min(cells[0], i + 3)):
            for b in range(max(0, j - 2), min(cells[1], j + 3)):
                for c in range(max(0, m - 2), min(cells[2], m + 3)):
                    other = holds[a, b, c]
                    if other >= 0:
                        apart = 0.0
                        for axis in range(3):
                            apart += (kept[other, axis] - proposed[k, axis]) ** 2
                        if apart < distance**2:
                            free = False
        if free:
            kept[n] = proposed[k]
            holds[i, j, m] = n
            n += 1
    return kept[:n]


def field_nm(coefficients: np.ndarray) -> float:
    """Side of the square on the specimen that the wave reaches, in nm, with some room."""
    from napari_smarttem.physics.aberrations import ESTIMATED, gradient_basis

    at = np.linspace(-LIT_MRAD - SOFT_MRAD, LIT_MRAD + SOFT_MRAD, 33) * 1e-3
    y, x = np.meshgrid(at, at, indexing="ij")
    met = np.tensordot(coefficients, gradient_basis(ESTIMATED, y, x), axes=1)
    return float(2 * np.abs(met[:, np.hypot(y, x) < ROUND_MRAD * 1e-3]).max() + 8.0)


def grid(coefficients: np.ndarray) -> tuple[int, float, int]:
    """Points of the diffraction pattern per camera pixel, side in nm, points along the side."""
    from napari_smarttem.physics.ronchigram import Geometry, nice_size

    geometry = Geometry(KV, HALF_ANGLE_MRAD, PIXELS)
    per_pixel = geometry.wavelength_nm / geometry.pixel_rad  # nm of side for one point a pixel
    points = int(np.ceil(field_nm(coefficients) / per_pixel))
    side = points * per_pixel
    return points, side, nice_size(side * 2 * 1.5 * CUTOFF_PER_NM)


def multislice(coefficients: np.ndarray, atoms_nm: np.ndarray, slices: int, thick_nm: float) -> tuple[np.ndarray, Any]:
    """The noise-free frame in units of its mean, (pixels, pixels), (y, x), and abTEM's potential."""
    import abtem
    import ase

    from napari_smarttem.physics.aberrations import ESTIMATED
    from napari_smarttem.schema.optics import to_krivanek

    points, side, size = grid(coefficients)
    extent = 10 * side
    atoms = ase.Atoms(
        np.full(len(atoms_nm), 6), positions=10 * atoms_nm, cell=[extent, extent, 10 * slices * thick_nm], pbc=True
    )
    potential = abtem.Potential(
        atoms, gpts=size, slice_thickness=10 * thick_nm, parametrization="lobato", projection="infinite"
    )
    polar = abtem_polar(to_krivanek(dict(zip(ESTIMATED, coefficients, strict=True))))
    polar["C10"] -= 10 * thick_nm * (slices - 1) / 2  # the middle of the film lies below its entrance
    angle = np.fft.fftfreq(size, d=side / size) * abtem.core.energy.energy2wavelength(KV) / 10 * 1e3
    soft = 0.5 * (1 + np.cos(np.pi * np.clip((np.abs(angle) - LIT_MRAD) / SOFT_MRAD, 0, 1)))
    aperture = (soft[:, None] * soft[None, :]).astype(np.float32)
    aperture[np.hypot(angle[:, None], angle[None, :]) > ROUND_MRAD] = 0
    lit = abtem.Waves(aperture.astype(np.complex64), energy=KV, extent=extent, reciprocal_space=True)
    del aperture
    exit_wave = lit.apply_ctf(abtem.CTF(energy=KV, **polar)).multislice(potential)
    pattern = np.asarray(exit_wave.diffraction_patterns(max_angle=HALF_ANGLE_MRAD + 2).array)
    middle = np.array(pattern.shape) // 2
    half = points * PIXELS // 2
    cut = pattern[middle[0] - half : middle[0] + half + 1, middle[1] - half : middle[1] + half + 1].astype(float)
    frame = camera(camera(cut, points).T, points)  # abTEM's first axis is x: the one transposition makes (y, x)
    return frame / frame.mean(), potential


def camera(pattern: np.ndarray, points: int) -> np.ndarray:
    """Sums along the first axis into pixels whose edges lie on points of the pattern, which count half on either side."""
    sums = np.stack([pattern[k : len(pattern) - points + k : points] for k in range(points + 1)])
    return np.asarray(sums[1:-1].sum(axis=0) + 0.5 * (sums[0] + sums[-1]))


def abtem_polar(krivanek: dict[str, float]) -> dict[str, float]:
    """Sizes in Å and azimuths in rad of Krivanek's Cartesian coefficients in nm."""
    polar: dict[str, float] = {}
    for name, a in krivanek.items():
        if name.endswith("a"):
            b = krivanek[f"{name[:-1]}b"]
            polar[name[:-1]] = 10 * float(np.hypot(a, b))
            polar[f"phi{name[1:3]}"] = float(np.arctan2(b, a)) / int(name[2])
        elif not name.endswith("b"):
            polar[name] = 10 * a
    return polar


def quietly() -> None:
    """One thread, plans made in no time, no progress bars."""
    import abtem

    abtem.config.set({"fftw.planning_effort": "FFTW_ESTIMATE", "fftw.threads": 1, "diagnostics.progress_bar": False,
                      "dask.lazy": False, "warnings.overspecified-grid": False})  # fmt: skip


def simulate(work: Path, numbers: list[int]) -> None:
    """Frames with the numbers that are not there yet, and the one for `compare` (number -1)."""
    quietly()
    work.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = work / f"frame_{number:02d}.npz"
        if path.exists():
            continue
        began = time.process_time()
        one = drawn(number)
        rng = np.random.default_rng([20261122, number])
        side = grid(one["coefficients"])[1]
        atoms = amorphous(rng, side, one["slices"] * SLICE_NM, one["per_nm3"])
        frame, _ = multislice(one["coefficients"], atoms, one["slices"], SLICE_NM)
        np.savez(path, frame=frame.astype(np.float32), **one)
        print(f"frame {number}: field {side:.0f} nm, {len(atoms)} atoms, contrast {frame.std():.3f}, "
              f"{time.process_time() - began:.0f} s of processor time", flush=True)  # fmt: skip


THIN = {
    "C1": -600.0,
    "A1.x": 15.0,
    "A1.y": -20.0,
    "B2.x": 200.0,
    "B2.y": -100.0,
    "A2.x": 150.0,
    "A2.y": 250.0,
    "C3": -20.0,
}
"""Aberrations of the comparison: every one of them there."""


def simulate_thin(work: Path) -> None:
    """One film of 4 nm, as one slice and as four, and its projected phase on the grid of the package's forward model."""
    from scipy import ndimage

    from napari_smarttem.physics.aberrations import ESTIMATED, vector

    quietly()
    work.mkdir(parents=True, exist_ok=True)
    coefficients = vector(THIN, ESTIMATED)
    _, side, size = grid(coefficients)
    atoms = amorphous(np.random.default_rng(20261123), side, 4.0, 100.0)
    thick, _ = multislice(coefficients, atoms, 4, 1.0)
    thin, potential = multislice(coefficients, atoms, 1, 4.0)
    projected = np.asarray(potential.build(lazy=False).array).sum(axis=0)
    from abtem.core.energy import energy2sigma

    phase = (projected * energy2sigma(KV)).T  # (y, x)
    rows, columns, nyquist = places_nm(coefficients)
    spectrum = np.fft.rfft2(phase)
    q = np.hypot(np.fft.fftfreq(size, side / size)[:, None], np.fft.rfftfreq(size, side / size)[None, :])
    contrast = float(np.sqrt(2 * np.sum(np.abs(spectrum[:, 1:][q[:, 1:] < 5.0]) ** 2)) / size**2)
    radii = np.arange(0.25, 8.0, 0.25)
    ring = np.digitize(q.ravel(), radii)
    sums = np.bincount(ring, (np.abs(spectrum) ** 2).ravel(), minlength=len(radii) + 1)[1:-1]
    power = sums / np.bincount(ring, minlength=len(radii) + 1)[1:-1]
    spectrum[q > nyquist] = 0  # what ours cannot hold must not fold back into it
    spectrum[0, 0] = 0
    smooth = np.fft.irfft2(spectrum, s=phase.shape)
    wrapped = [np.mod(one, side) / side * size for one in (rows, columns)]
    sampled = ndimage.map_coordinates(smooth, wrapped, order=5, mode="grid-wrap")
    np.savez(work / "thin.npz", thin=thin, thick=thick, phase=sampled, phase_rms=contrast, coefficients=coefficients,
             q_per_nm=(radii[1:] + radii[:-1]) / 2, power=power)  # fmt: skip
    print(f"field {side:.0f} nm, {len(atoms)} atoms, phase {contrast:.3f} rad rms below 5/nm", flush=True)


OVER = 4


def places_nm(coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Where the grid of our forward model meets the specimen, y and x in nm, and the frequency that it can hold, in 1/nm."""
    from napari_smarttem.physics.aberrations import ESTIMATED, curvature_basis
    from napari_smarttem.physics.ronchigram import GUARD, Geometry, nice_size

    geometry = Geometry(KV, HALF_ANGLE_MRAD, PIXELS)
    size, step = nice_size(PIXELS * GUARD) * OVER, geometry.pixel_rad / OVER
    yy, yx, xx = curvature_basis(ESTIMATED[:3], np.zeros(()), np.zeros(())).T @ coefficients[:3]
    at = (np.arange(size) + 0.5 - size / 2) * step
    rows = yy * at[:, None] + yx * at[None, :]
    columns = yx * at[:, None] + xx * at[None, :]
    shortest = np.linalg.eigvalsh(np.array([[yy, yx], [yx, xx]]))
    return rows, columns, 0.5 / (step * float(np.abs(shortest).max()))


def compare(work: Path) -> dict[str, float]:
    """Multislice against the package's forward model, atoms and aberrations the same, without noise."""
    import torch

    from napari_smarttem.physics.aberrations import ESTIMATED, curvature_basis, wave_basis
    from napari_smarttem.physics.ronchigram import Geometry, Recording, _window, far_field

    with np.load(work / "thin.npz", allow_pickle=False) as kept:
        film = {name: kept[name] for name in kept.files}
    coefficients, phase = film["coefficients"], film["phase"]
    geometry = Geometry(KV, HALF_ANGLE_MRAD, PIXELS)
    size, step = len(phase), geometry.pixel_rad / OVER
    at = (np.arange(size) + 0.5 - size / 2) * step
    y, x = np.meshgrid(at, at, indexing="ij")
    chi = 2 * np.pi / geometry.wavelength_nm * np.tensordot(coefficients[3:], wave_basis(ESTIMATED[3:], y, x), axes=1)
    window = _window(size, OVER, geometry, Recording(), at=at, device="cpu")
    pupil = torch.polar(torch.ones(size, size), torch.as_tensor(-np.remainder(chi, 2 * np.pi), dtype=torch.float32))
    yy, yx, xx = curvature_basis(ESTIMATED[:3], np.zeros(()), np.zeros(())).T @ coefficients[:3]
    s = np.fft.fftfreq(size, d=step)
    inverse = np.array([xx, -yx, yy]) / (yy * xx - yx**2)
    gamma = np.pi * geometry.wavelength_nm * (
        inverse[0] * s[:, None] ** 2 + 2 * inverse[1] * s[:, None] * s[None, :] + inverse[2] * s[None, :] ** 2
    )  # fmt: skip
    kernel = torch.polar(torch.ones(size, size), torch.as_tensor(np.remainder(gamma, 2 * np.pi), dtype=torch.float32))
    specimen = torch.polar(torch.ones(size, size), torch.as_tensor(phase, dtype=torch.float32))
    intensity = far_field((pupil * window)[None], specimen[None], kernel[None])[0].abs().numpy() ** 2
    margin = (size - PIXELS * OVER) // 2
    cut = intensity[margin : size - margin, margin : size - margin]
    ours = cut.reshape(PIXELS, OVER, PIXELS, OVER).mean(axis=(1, 3))
    figures: dict[str, float] = {"phase_rms": float(film["phase_rms"])}
    # ours is lit to 34 mrad, the other to 38: what the finest details scatter, by up to 14 mrad, is missing near our rim
    middle = PIXELS // 4
    for name, other in (("one_slice", film["thin"]), ("four_slices", film["thick"])):
        for part, inner in (("", slice(None)), ("_middle", slice(middle, PIXELS - middle))):
            a, b = (one[inner, inner] / one[inner, inner].mean() - 1 for one in (ours, other))
            figures[f"correlation_{name}{part}"] = float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
            figures[f"rms_difference_{name}{part}"] = float(np.sqrt(np.mean((a - b) ** 2)))
            figures[f"contrast_{name}{part}"] = float(b.std())
    return figures


def fitted_film(work: Path) -> dict[str, float]:
    """What the package's `Film` says of the spectrum of the film of `simulate_thin`: fall-off and ring that fit best."""
    from scipy.optimize import least_squares

    with np.load(work / "thin.npz", allow_pickle=False) as thin:
        q, power, rms = thin["q_per_nm"], thin["power"], float(thin["phase_rms"])

    def shape(values: np.ndarray) -> np.ndarray:
        k0, ring, at, width = values
        return 1 / (1 + (q / k0) ** 2) ** 2 + ring * np.exp(-0.5 * ((q - at) / width) ** 2)

    def off(values: np.ndarray) -> np.ndarray:
        made = shape(values)
        return np.log(made / (made * q).sum()) - np.log(power / (power * q).sum())

    best = least_squares(off, [5.0, 0.3, 4.7, 0.8], bounds=([0.5, 0.0, 2.0, 0.3], [50.0, 20.0, 8.0, 5.0]))
    names = ("k0_per_nm", "ring", "ring_per_nm", "ring_width_per_nm")
    return {"phase_rms": rms, **dict(zip(names, map(float, best.x), strict=True)), "misfit": float(best.fun.std())}


def pack(work: Path, target: Path, step: float = 0.03) -> None:
    """All frames in one file: bytes of `step` of the mean each, shot noise not in them."""
    film = fitted_film(work)
    print(json.dumps(film))
    phase_of_400 = film.pop("phase_rms")  # 4 nm of 100 atoms/nm³
    film.pop("misfit")
    kept = [np.load(path, allow_pickle=False) for path in sorted(work.glob("frame_*.npz"))]
    frames = np.clip(np.rint(np.stack([one["frame"] for one in kept]) / step), 0, 255).astype(np.uint8)
    thickness_nm = np.array([SLICE_NM * int(one["slices"]) for one in kept])
    per_nm3 = np.array([float(one["per_nm3"]) for one in kept])
    np.savez_compressed(
        target, frames=frames, step=step, coefficients=np.stack([one["coefficients"] for one in kept]),
        thickness_nm=thickness_nm, per_nm3=per_nm3, phase_rms=phase_of_400 * np.sqrt(thickness_nm * per_nm3 / 400.0),
        high_tension_v=KV, half_angle_mrad=HALF_ANGLE_MRAD, **film,
    )  # fmt: skip
    print(f"{len(frames)} frames, {target.stat().st_size} bytes")


def main(words: list[str]) -> None:
    """See the top of this file."""
    what, work = words[0], Path(words[1])
    if what == "simulate":
        if not (work / "thin.npz").exists():
            simulate_thin(work)
        simulate(work, [int(word) for word in words[2:]] or list(range(COUNT)))
    elif what == "compare":
        print(json.dumps(compare(work), indent=1))
    elif what == "pack":
        pack(work, Path(words[2]))
    else:
        raise SystemExit("simulate, compare or pack?")


if __name__ == "__main__":
    main(sys.argv[1:])
