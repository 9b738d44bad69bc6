"""``smarttem measure-aberrations``: the aberrations that a saved Ronchigram shows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", type=Path, help="a Ronchigram: .npy .tif .dm3 .dm4 .hspy .mrc ...")
    parser.add_argument("--kv", type=float, required=True, help="high tension in kV")
    parser.add_argument(
        "--half-angle", type=float, metavar="MRAD",
        help="from the optic axis to the middle of the frame's edge; without it, the file's own calibration in mrad",
    )  # fmt: skip
    parser.add_argument(
        "--defocus", type=float, default=-1500.0, metavar="NM", help="about where C1 is (default -1500 nm, underfocus)"
    )
    parser.add_argument("--model", default="ronchigram", help="weights by name, or 'none' to search without a network")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure and print; status 1 where the frame must not be used."""
    from .alignment.estimator import Estimator

    image, half_angle = load(options.file, options.half_angle)
    estimator = Estimator(None if options.model == "none" else options.model)
    found = estimator.measure(
        image, high_tension_v=1e3 * options.kv, half_angle_mrad=half_angle, expected_c1_nm=options.defocus
    )
    said = {"file": options.file.name, **found.as_dict()}
    if options.json:
        print(json.dumps(said, indent=2, default=str))
    elif found.good:
        for name, row in said["aberrations"].items():
            print(f"{name:<6} {row['value']:>10.2f} ± {row['sigma']:.2g} {row['units']}")
        print(f"the phase stays under pi/4 to {found.quarter_pi_mrad:.1f} mrad (the defocus counted)")
    else:
        print(f"not a measurement: {found.verdict}.")
    return 0 if found.good else 1


def load(file: Path, half_angle_mrad: float | None) -> tuple[np.ndarray, float]:
    """The image of a file, and half the angle it shows in mrad.

    Raises
    ------
    BadInput
        No such file, not one image, or no calibration.
    """
    import numpy as np

    from .schema import BadInput

    if not file.is_file():
        raise BadInput(f"there is no file {file}.")
    image: Any
    if file.suffix == ".npy":
        image = np.load(file, allow_pickle=False)
    else:
        from .io.read import read

        frames = [frame for frame in read(file) if len(frame.shape) == 2]
        if len(frames) != 1:
            raise BadInput(f"{file.name} holds {len(frames)} images; a Ronchigram is one image.")
        image = np.asarray(frames[0].data)
        axes = frames[0].axes
        if half_angle_mrad is None and all(axis.units == "mrad" for axis in axes):
            half_angle_mrad = min(abs(a.scale) * n / 2 for a, n in zip(axes, frames[0].shape, strict=True))
    if half_angle_mrad is None:
        raise BadInput(
            f"{file.name} is not calibrated in mrad; give --half-angle, the angle from the axis to the middle of the edge."
        )
    return np.asarray(image), float(half_angle_mrad)
