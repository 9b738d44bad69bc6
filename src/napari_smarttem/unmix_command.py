"""``smarttem unmix``: endmembers and maps of a file, without a window."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, Literal


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", type=Path, help="spectrum image or line scan, anything RosettaSciIO reads")
    parser.add_argument("--method", default="auto", help="auto, minimum-volume, lines, vca, nmf ... (default: auto)")
    parser.add_argument("--components", default="auto", help="a number, or auto (default)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for result.hspy, result.csv and result-maps.csv"
    )
    parser.add_argument(
        "--energy", nargs=2, type=float, metavar=("FIRST", "LAST"), help="use only these energies, in eV"
    )
    parser.add_argument("--bin", type=int, default=1, metavar="N", help="sum N channels")
    parser.add_argument(
        "--zero-negatives",
        action="store_true",
        help="set the few negative values of read-out noise to zero, so that the noise of counting can be used",
    )
    parser.add_argument(
        "--subtract-zero-loss",
        action="store_true",
        help="align the zero-loss peaks and subtract the peak that small networks learn from the spectra",
    )
    parser.add_argument(
        "--low-loss", type=Path, metavar="FILE", help="remove plural scattering with this low loss of the same place"
    )
    parser.add_argument(
        "--smooth-maps",
        action="store_const",
        const="least error",
        default=False,
        help="take noise out of the maps where that predicts counts that were held out better",
    )
    parser.add_argument(
        "--repeatable-maps",
        dest="smooth_maps",
        action="store_const",
        const="repeatable",
        help="take out more of it, so that another measurement gives the same maps, at some cost in fine structure",
    )
    parser.add_argument("--no-elements", action="store_true", help="do not look for elements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace earlier results in DIR")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Unmix the largest spectrum image in the file."""
    from .io.read import read
    from .schema import BadInput
    from .unmixing import save, unmix
    from .unmixing.prepare import Preparation
    from .unmixing.result_notes import notes

    components: int | Literal["auto"] = "auto"
    if options.components != "auto":
        try:
            components = int(options.components)
        except ValueError:
            raise BadInput(f"--components is a number or auto, not {options.components!r}.") from None
    frames = [frame for frame in read(options.file) if frame.axes[-1].units == "eV" and len(frame.axes) in (2, 3)]
    if not frames:
        raise BadInput(f"{options.file.name} holds no spectrum image and no line scan.")
    frame = max(frames, key=lambda one: math.prod(one.shape))

    def say(fraction: float, word: str) -> None:
        if not options.json and sys.stderr.isatty():
            text = f"{100 * fraction:3.0f} % {word:<32}" if fraction < 1.0 else " " * 40 + "\r"
            print(f"\r{text}", end="", file=sys.stderr, flush=True)

    prepared = Preparation(frame)
    if options.zero_negatives:
        prepared.apply("zero_negatives")
    if options.low_loss is not None:
        low = [one for one in read(options.low_loss) if one.axes[-1].units == "eV"]
        if not low:
            raise BadInput(f"{options.low_loss.name} holds no spectra.")
        prepared.apply("deconvolve", low_loss=max(low, key=lambda one: math.prod(one.shape)), report=say)
    band: dict[str, Any] = {}
    if options.subtract_zero_loss:
        prepared.apply("align_zero_loss")
        band = dict(prepared.apply("zero_loss", report=say, seed=options.seed).metadata["zero_loss"])  # type: ignore[arg-type]
    if options.energy:
        prepared.apply("crop_energy", first_ev=options.energy[0], last_ev=options.energy[1])
    if options.bin > 1:
        prepared.apply("bin", energy=options.bin)

    named = not options.no_elements and frame.signal.upper().startswith(("EDS", "EELS"))
    result = unmix(
        prepared.frame,
        method=options.method,
        components=components,
        seed=options.seed,
        progress=say,
        elements=named,
        smooth_maps=options.smooth_maps,
    )
    written = []
    if options.out is not None:
        for name in ("result.hspy", "result.csv"):
            written.append(str(save(result, options.out / name, overwrite=options.overwrite)))
    summary: dict[str, Any] = {
        "components": result.components,
        "method": result.method,
        "elements": {name: list(symbols) for name, symbols in zip(result.names, result.elements, strict=True)},
        "residual": result.chi2,
        "seconds": result.provenance["seconds"],
        "assumption": result.assumption,
        "warnings": list(notes(result, prepared.frame)),
        "rank": result.scree.reason,
        "files": written,
    }
    if options.smooth_maps:
        summary["smooth_maps"] = result.provenance["smooth_maps"]
    if band:
        summary["zero_loss"] = {"width_ev": band["width_ev"], "onset_ev": band["onset_ev"]}
    if options.json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return 0
    print(
        f"{result.components} components ({result.method}), residual {result.chi2:.3f} of the noise: {result.scree.reason}"
    )
    for name, symbols, amount in zip(result.names, result.elements, result.maps.mean(axis=(1, 2)), strict=True):
        print(f"  {name:<20} {100 * amount:5.1f} %  {' '.join(symbols)}")
    print(result.assumption)
    for warning in summary["warnings"]:
        print(f"note: {warning}")
    for path in written:
        print(path)
    return 0
