"""What unmixing gives back, and how two of them are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..schema import BadInput
from ..schema.frame import Axis, Frame


@dataclass(frozen=True)
class Scree:
    """Why so many components: singular values of the noise-scaled data and where noise ends.

    Parameters
    ----------
    values : ndarray
        ``(r,)`` singular values, falling.
    threshold : float
        The largest singular value that noise alone would give.
    chosen : int
        Number of components taken.
    reason : str
        One sentence.
    noise_correlation : float
        Of the residuals of neighbouring channels; zero for independent counts.
    """

    values: np.ndarray
    threshold: float
    chosen: int
    reason: str
    noise_correlation: float = 0.0


@dataclass(frozen=True)
class UnmixingResult:
    """Endmembers, maps, what is left over and how sure.

    Parameters
    ----------
    endmembers : ndarray
        ``(k, energy)``, float64, counts of a pixel that holds one unit of it.
    endmember_errors : ndarray
        ``(k, energy)`` standard errors; NaN where the method has none.
    maps : ndarray
        ``(k, y, x)`` amounts; they sum to about one where the thickness is the same everywhere.
    map_errors : ndarray
        ``(k, y, x)`` standard errors.
    residual_map : ndarray
        ``(y, x)`` squared residual over its expectation: one where the model explains the pixel down to the noise.
    chi2 : float
        The same over the whole image.
    axes : tuple of Axis
        y, x, energy.
    signal : str
        ``"EELS"``, ``"EDS"`` ...
    method : str
        Which method made it.
    assumption : str
        The sentence on which the answer rests.
    warnings : tuple of str
        Sentences: what of the assumption fails, or what is wrong with the data.
    scree : Scree
        The number of components and why.
    names : tuple of str
        One a component.
    elements : tuple of tuple of str
        Symbols found in each endmember, the surest first; empty until they were looked for.
    residual_spectrum : ndarray
        ``(energy,)`` mean of the data minus the model.
    extra : dict
        What only some methods have: ``"labels"`` ``(y, x)``, ``"probabilities"`` ...
    provenance : dict
        JSON values: method, settings, seed, versions, seconds, metadata of the data.
    """

    endmembers: np.ndarray
    endmember_errors: np.ndarray
    maps: np.ndarray
    map_errors: np.ndarray
    residual_map: np.ndarray
    chi2: float
    axes: tuple[Axis, Axis, Axis]
    signal: str
    method: str
    assumption: str
    warnings: tuple[str, ...]
    scree: Scree
    names: tuple[str, ...]
    elements: tuple[tuple[str, ...], ...] = ()
    residual_spectrum: np.ndarray = field(default_factory=lambda: np.zeros(0))
    extra: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def components(self) -> int:
        """Number of components."""
        return len(self.endmembers)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the maps."""
        return int(self.maps.shape[1]), int(self.maps.shape[2])

    @property
    def energy_ev(self) -> np.ndarray:
        """Energies of the channels, ``(energy,)``."""
        return self.axes[2].coordinates(self.endmembers.shape[1])

    def reconstruct(self, y: int, x: int) -> np.ndarray:
        """The model's spectrum of one pixel, ``(energy,)``."""
        return np.asarray(self.maps[:, y, x] @ self.endmembers)

    def reconstruct_window(self, first: int, last: int) -> np.ndarray:
        """Map ``(y, x)`` of the model summed over channels ``first .. last - 1``."""
        return np.tensordot(self.endmembers[:, first:last].sum(axis=1), self.maps, axes=1)

    def map_frame(self, component: int) -> Frame:
        """One map as a frame with the image's axes."""
        return Frame(
            data=self.maps[component].astype(np.float32),
            axes=self.axes[:2],
            signal=self.names[component],
            quantity="amount",
            metadata={"unmixing": self.method, "component": component},
        )

    def spectrum_frame(self, component: int) -> Frame:
        """One endmember as a frame."""
        return Frame(
            data=self.endmembers[component],
            axes=self.axes[2:],
            signal=self.signal,
            metadata={"unmixing": self.method, "component": component, "name": self.names[component]},
        )

    def renamed(self, component: int, name: str) -> UnmixingResult:
        """The same with another name for one component."""
        self._check(component)
        if not name.strip():
            raise BadInput("A component needs a name of at least one letter.")
        names = list(self.names)
        names[component] = name.strip()
        return self._edited({"renamed": [component, name.strip()]}, names=tuple(names))

    def with_elements(self, component: int, symbols: Sequence[str]) -> UnmixingResult:
        """The same with a person's word on which elements one component holds."""
        self._check(component)
        elements = list(self.elements or ((),) * self.components)
        elements[component] = tuple(symbols)
        return self._edited({"elements": [component, list(symbols)]}, elements=tuple(elements))

    def merged(self, components: Sequence[int], name: str | None = None) -> UnmixingResult:
        """Some components made into one: amounts are added, and the spectrum is their mean weighted by amount.

        The model changes where the proportions of the merged ones vary; `chi2` and `residual_map` are those from before.
        """
        wanted = sorted(set(components))
        if len(wanted) < 2:
            raise BadInput("Merging needs at least two different components.")
        for component in wanted:
            self._check(component)
        weight = self.maps[wanted].sum(axis=(1, 2))
        weight = weight / max(float(weight.sum()), 1e-300)
        rest = [c for c in range(self.components) if c not in wanted[1:]]
        endmembers, endmember_errors = self.endmembers.copy(), self.endmember_errors.copy()
        maps, map_errors, names = self.maps.copy(), self.map_errors.copy(), list(self.names)
        first = wanted[0]
        endmembers[first] = weight @ self.endmembers[wanted]
        endmember_errors[first] = np.sqrt(weight**2 @ self.endmember_errors[wanted] ** 2)
        maps[first] = self.maps[wanted].sum(axis=0)
        map_errors[first] = np.sqrt((self.map_errors[wanted] ** 2).sum(axis=0))
        names[first] = name or " + ".join(self.names[c] for c in wanted)
        found = self.elements or ((),) * self.components
        elements = list(found)
        elements[first] = tuple(dict.fromkeys(symbol for c in wanted for symbol in found[c]))
        return self._edited(
            {"merged": wanted},
            endmembers=endmembers[rest],
            endmember_errors=endmember_errors[rest],
            maps=maps[rest],
            map_errors=map_errors[rest],
            names=tuple(names[c] for c in rest),
            elements=tuple(elements[c] for c in rest),
        )

    def dropped(self, component: int) -> UnmixingResult:
        """The same without one component; what it explained is left to the residual of the data."""
        self._check(component)
        if self.components == 1:
            raise BadInput("The last component cannot be dropped.")
        rest = [c for c in range(self.components) if c != component]
        return self._edited({"dropped": component}, **self._taken(rest))

    def reordered(self, order: Sequence[int], signs: np.ndarray | None = None) -> UnmixingResult:
        """Components in another order; `signs` turns those of free sign around."""
        fields = self._taken(list(order))
        if signs is not None:
            fields["maps"] = fields["maps"] * np.asarray(signs)[:, None, None]
            fields["endmembers"] = fields["endmembers"] * np.asarray(signs)[:, None]
        return replace(self, **fields)

    def _taken(self, rest: list[int]) -> dict[str, Any]:
        found = self.elements or ((),) * self.components
        return {
            "endmembers": self.endmembers[rest],
            "endmember_errors": self.endmember_errors[rest],
            "maps": self.maps[rest],
            "map_errors": self.map_errors[rest],
            "names": tuple(self.names[c] for c in rest),
            "elements": tuple(found[c] for c in rest),
        }

    def _edited(self, edit: Mapping[str, Any], **fields: Any) -> UnmixingResult:
        edits = [*self.provenance.get("edits", []), dict(edit)]
        return replace(self, provenance={**self.provenance, "edits": edits}, **fields)

    def _check(self, component: int) -> None:
        if not 0 <= component < self.components:
            raise BadInput(f"There is no component {component}; there are {self.components}, counted from 0.")


@dataclass(frozen=True)
class Match:
    """Two results, component by component.

    Parameters
    ----------
    pairs : tuple of (int, int)
        Component of the first, component of the second.
    signs, scales : tuple of float
        The second's map times sign times scale is nearest to the first's.
    correlations : tuple of float
        Of the two maps, after the sign.
    angles_deg : tuple of float
        Between the two endmembers.
    """

    pairs: tuple[tuple[int, int], ...]
    signs: tuple[float, ...]
    scales: tuple[float, ...]
    correlations: tuple[float, ...]
    angles_deg: tuple[float, ...]

    @property
    def mean_correlation(self) -> float:
        """Mean correlation of the matched maps."""
        return float(np.mean(self.correlations)) if self.correlations else 0.0


def match(a: UnmixingResult, b: UnmixingResult) -> Match:
    """Components of `b` beside those of `a`: in order, sign and scale (Hungarian assignment of map correlations)."""
    from scipy.optimize import linear_sum_assignment

    if a.shape != b.shape:
        raise BadInput(f"Maps of {a.shape[0]}x{a.shape[1]} and {b.shape[0]}x{b.shape[1]} pixels cannot be matched.")
    one, other = _standardised(a.maps), _standardised(b.maps)
    correlation = one @ other.T
    first, second = linear_sum_assignment(-np.abs(correlation))
    signs, scales, angles, values = [], [], [], []
    for i, j in zip(first, second, strict=True):
        sign = 1.0 if correlation[i, j] >= 0 else -1.0
        x, y = b.maps[j].ravel(), a.maps[i].ravel()
        signs.append(sign)
        scales.append(float(abs(x @ y) / max(float(x @ x), 1e-300)))
        values.append(float(abs(correlation[i, j])))
        angles.append(_angle(a.endmembers[i], sign * b.endmembers[j]))
    pairs = tuple((int(i), int(j)) for i, j in zip(first, second, strict=True))
    return Match(pairs, tuple(signs), tuple(scales), tuple(values), tuple(angles))


def _standardised(maps: np.ndarray) -> np.ndarray:
    flat = maps.reshape(len(maps), -1) - maps.reshape(len(maps), -1).mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-300))


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("nan")
    cosine = float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-300))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
