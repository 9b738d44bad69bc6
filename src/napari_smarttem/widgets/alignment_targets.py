"""What can be aligned on the instrument at hand, and the runs that do it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..schema import PlanSpec

CLICK, LOOP, TARGET_LOOP = "alignment-click", "alignment", "target-alignment"
RONCHIGRAM, IMAGE = "ronchigram", "image"
SEARCHED_NM = {"C1": 60.0, "A1.x": 20.0, "A1.y": 20.0}
"""Half-ranges of the search for the sharpest image, in the controls' own units."""
KINDS = frozenset({CLICK, LOOP, TARGET_LOOP})
PREFERRED_EXPOSURE_S = {RONCHIGRAM: 0.5}


@dataclass(frozen=True)
class Alignable:
    """One piece of optics that the instrument lets one align.

    Attributes
    ----------
    name : str
        What plans call it.
    title : str
        What people call it.
    camera : str or None
    controls : dict of str to str
        Names of the controls that may be moved, and their units.
    settings : dict
        For the target's builder.
    parameters : tuple of (str, str, float)
        Name, units, tolerance of each misalignment where they are known without a picture.
    defocused : bool
        True where it is looked at a known defocus.
    """

    name: str
    title: str
    camera: str | None
    controls: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[tuple[str, str, float], ...] = ()
    defocused: bool = False

    @property
    def measured(self) -> bool:
        """False where nothing is measured, but the best is searched for."""
        return self.name != IMAGE

    def click(self, controls: Mapping[str, Any], **settings: Any) -> PlanSpec:
        """The run of one click."""
        return PlanSpec(
            kind=CLICK,
            settings={
                "target": self.name,
                "target_settings": dict(self.settings),
                "camera": self.camera,
                "controls": {name: dict(controls[name]) for name in self.controls},
                **settings,
            },
        )


def alignable(instrument: Any) -> list[Alignable]:
    """Everything that can be aligned on a guarded instrument, the Ronchigram first. Takes a second; call it off the window."""
    if instrument is None or instrument.optics is None:
        return []
    controls = {name: info.units for name, info in instrument.optics.controls.items()}
    by_image = [
        Alignable(IMAGE, "Sharpness of the image (no amorphous area)", None, {n: controls[n] for n in SEARCHED_NM})
    ]
    if instrument.scanner is None or any(name not in controls for name in SEARCHED_NM):
        by_image = []
    return (with_camera(instrument, controls) if instrument.camera is not None else []) + by_image


def with_camera(instrument: Any, controls: Mapping[str, str]) -> list[Alignable]:
    """What is aligned by the pictures of a camera."""
    from ..alignment import targets
    from ..physics.aberrations import ESTIMATED

    cameras = list(instrument.camera.cameras)
    found, taken, used = [], set(), set()
    for name in targets.available():
        settings = _settings_of(name)
        target = targets.target(name, **settings)
        taken.add(target.camera)
        used.update(target.controls)
        if target.camera in cameras and all(control in controls for control in target.controls):
            parameters = tuple(
                (one.name, one.units, float(tolerance))
                for one, tolerance in zip(target.parameters, target.tolerance, strict=True)
            )
            chosen = {control: controls[control] for control in target.controls}
            found.append(Alignable(name, target.name, target.camera, chosen, settings, parameters))
    angle_cameras = [camera for camera in cameras if camera not in taken]
    if angle_cameras:
        rest = {name: units for name, units in controls.items() if name not in used}
        same = {name: units for name, units in rest.items() if name in ESTIMATED}
        found.insert(
            0, Alignable(RONCHIGRAM, "Probe (Ronchigram)", angle_cameras[0], same or rest, defocused="C1" in rest)
        )
    return found


def _settings_of(name: str) -> dict[str, Any]:
    """The sorter's target asks its network only where there is one."""
    if name != "oam-sorter":
        return {}
    from ..alignment.targets.oam_sorter import MODEL
    from ..nn.registry import available

    return {"network": MODEL in available() and importlib.util.find_spec("torch") is not None}
