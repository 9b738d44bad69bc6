"""What enters an orbital-angular-momentum sorter: coherent states, and incoherent sums of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Amplitude = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class InputState:
    """An incoherent sum of coherent amplitudes over the aperture.

    Parameters
    ----------
    name : str
    components : tuple of callable
        Each takes radius (in units of the aperture's) and azimuth, and returns complex amplitudes of the same shape; the square of
        its size is its share.
    """

    name: str
    components: tuple[Amplitude, ...]

    def amplitudes(self, radius: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        """Amplitudes of all components, shape ``(components, *radius.shape)``, complex."""
        return np.stack([np.asarray(one(radius, azimuth), dtype=complex) for one in self.components])


def plane_wave() -> InputState:
    """The evenly lit aperture: l = 0."""
    return vortex(0)


def vortex(angular_momentum: int) -> InputState:
    """One state of orbital angular momentum, ``exp(i l theta)``, evenly lit."""
    return superposition({angular_momentum: 1.0}, name=f"l = {angular_momentum}")


def petals(order: int) -> InputState:
    """``l = +order`` and ``l = -order`` in phase: 2 x `order` petals, which show the sense of a rotation that l = 0 hides."""
    return superposition({order: 1.0, -order: 1.0}, name=f"petals of order {order}")


def superposition(amplitudes: Mapping[int, complex], name: str = "superposition") -> InputState:
    """A coherent sum of states of orbital angular momentum.

    Parameters
    ----------
    amplitudes : mapping
        l -> complex amplitude.
    """
    chosen = dict(amplitudes)

    def wave(radius: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        waves = [c * np.exp(1j * momentum * azimuth) for momentum, c in chosen.items()]
        return np.asarray(np.sum(waves, axis=0) * np.ones_like(radius))

    return InputState(name, (wave,))


def dichroic(contrast: float, order: int = 1) -> InputState:
    """A dichroic loss: electrons that took up +order and -order hbar, incoherent, in shares of (1 +- contrast) / 2.

    Parameters
    ----------
    contrast : float
        From -1 to 1; what the sorter is to measure.
    order : int
    """
    if not -1.0 <= contrast <= 1.0:
        raise ValueError(f"a dichroic contrast lies between -1 and 1, got {contrast}")

    def share(sign: int) -> Amplitude:
        size = np.sqrt(0.5 * (1 + sign * contrast))
        return lambda radius, azimuth: size * np.exp(1j * sign * order * azimuth) * np.ones_like(radius)

    return InputState(f"dichroic, contrast {contrast:g}", (share(1), share(-1)))


def chiral(arms: int, depth_rad: float, winding: float) -> InputState:
    """A phase object of spiral arms, ``exp(i depth cos(arms theta + winding ln r))``.

    States of l = n x arms appear with intensities J_n(depth)^2, the same for both signs; the hand of the spiral shows in their
    radial momentum, ``p = -n x winding``, on the other axis of the camera.
    """

    def wave(radius: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(1j * depth_rad * np.cos(arms * azimuth + winding * np.log(np.maximum(radius, 1e-6)))))

    return InputState(f"spiral of {arms} arms", (wave,))
