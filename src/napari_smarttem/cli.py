"""``smarttem``: everything the window does, without a window.

Only the standard library is imported before a command is chosen, so that ``smarttem --help`` answers at once. A command
returns its exit status: 0 done, 1 the run (or the check) failed, 2 the input was not usable, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._version import __version__

_EPILOG = """\
examples:
  smarttem gui
  smarttem acquire --backend simulator --specimen core-shell --choose edges --points 200 --approve 0.5 --out RUN
  smarttem acquire --backend replay --file map.hspy --choose clusters --points 300 --out RUN
  smarttem resume RUN.smarttem
  smarttem export RUN.smarttem --to map.hspy
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one ``smarttem`` command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] == "gui":  # the window has its own options; see `smarttem gui --help`
        return _gui(arguments[1:])
    options = build_parser().parse_args(arguments)
    if options.debug:
        return int(options.run(options))
    return _in_words(options)


def _in_words(options: argparse.Namespace) -> int:
    """Run the chosen command and say in one sentence on stderr what went wrong, if anything did."""
    from .schema import BadInput, JournalError, MissingCapability, SmartTEMError

    try:
        return int(options.run(options))
    except (BadInput, MissingCapability) as error:
        _complain(str(error))
        return 2
    except JournalError as error:
        _complain(str(error))
        return 1
    except SmartTEMError as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        _complain("interrupted.")
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
        return 1
    except Exception as error:  # a fault of ours: still one sentence, and where to find the rest
        _complain(f"unexpected {type(error).__name__}: {error} (run again with --debug for the whole traceback).")
        return 1


def _complain(sentence: str) -> None:
    print(f"smarttem: {' '.join(sentence.split())}", file=sys.stderr)


# -- the options ------------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Parser of every command but ``gui``, which has its own."""
    parser = argparse.ArgumentParser(
        prog="smarttem",
        description="Human-in-the-loop electron microscopy: a model looks, a person decides, the instrument measures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"napari-smarttem {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    machine_readable = argparse.ArgumentParser(add_help=False)
    machine_readable.add_argument("--json", action="store_true", help="print the result as JSON on standard output")

    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser("gui", help="open napari with the instrument connected (the default)", add_help=False)

    acquire = commands.add_parser(
        "acquire", parents=[common, machine_readable], help="overview, chosen points, spectra, into a new run folder"
    )
    _add_acquire_options(acquire)

    resume = commands.add_parser(
        "resume", parents=[common, machine_readable], help="go on with a run that was killed or stopped"
    )
    resume.add_argument("run_folder", type=Path, metavar="RUN", help="run folder (NAME.smarttem)")
    resume.add_argument("--approve", metavar="WHAT", help="as for acquire; without it, as the run was begun")
    resume.set_defaults(run=_resume)

    verify = commands.add_parser(
        "verify", parents=[common, machine_readable], help="check every line and every frame of a run"
    )
    verify.add_argument("run_folder", type=Path, metavar="RUN", help="run folder (NAME.smarttem)")
    verify.set_defaults(run=_verify)

    export = commands.add_parser("export", parents=[common], help="write a run as .hspy, .zspy, .ome.zarr or .csv")
    export.add_argument("run_folder", type=Path, metavar="RUN", help="run folder (NAME.smarttem)")
    export.add_argument(
        "--to", type=Path, required=True, metavar="FILE", help="what to write; its ending says the format"
    )
    export.set_defaults(run=_export)

    backends = commands.add_parser(
        "backends", parents=[common, machine_readable], help="list the instruments that can be used"
    )
    backends.set_defaults(run=_backends)

    unmixing = commands.add_parser(
        "unmix", parents=[common, machine_readable], help="endmembers, maps and elements of a spectrum image"
    )
    from .unmix_command import add_options as add_unmix_options

    add_unmix_options(unmixing)

    demo = commands.add_parser(
        "demo", parents=[common], help="the whole main job on the simulator: pictures, figures, one HTML page"
    )
    demo.add_argument(
        "--out", type=Path, default=Path("smarttem-demo"), metavar="DIR", help="folder to write (default: %(default)s)"
    )
    demo.add_argument(
        "--seed", type=int, default=7, help="of the specimen, the noise and the choice (default: %(default)s)"
    )
    demo.add_argument(
        "--no-window", action="store_true", help="take no picture of the window, even where there is a display"
    )
    demo.set_defaults(run=_demo)

    single_pixel = commands.add_parser(
        "single-pixel", parents=[common, machine_readable], help="structured illumination and one number a pattern"
    )
    _add_single_pixel_options(single_pixel)

    from . import measure_aberrations, train_command

    measure = commands.add_parser(
        "measure-aberrations", parents=[common, machine_readable], help="read the aberrations from a saved Ronchigram"
    )
    measure_aberrations.add_options(measure)
    train = commands.add_parser("train", parents=[common], help="train a network on data simulated on the way")
    train_command.add_options(train)

    bench = commands.add_parser("bench", parents=[common, machine_readable], help="measure the product's figures")
    bench.add_argument("name", nargs="?", metavar="NAME", help="which bench; without it, the names are listed")
    bench.add_argument("--quick", action="store_true", help="a version that takes about a minute")
    bench.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    bench.add_argument("--frames", type=int, metavar="N", help="alignment: so many frames of each size instead of 1000")
    bench.add_argument("--keep", type=Path, metavar="FILE", help="alignment: keep results in FILE and go on from there")
    bench.set_defaults(run=_bench)

    check = commands.add_parser(
        "check",
        parents=[common, machine_readable],
        help="try what a DigitalMicrograph server offers, within safe limits",
    )
    check.add_argument("address", metavar="ADDRESS", help="as the server printed it: tcp://HOST:PORT")
    check.add_argument("--token", default="", help="as the server printed it (default: $SMARTTEM_DM_TOKEN)")
    check.set_defaults(run=_check)

    fake = commands.add_parser(
        "fake-gms", parents=[common], help="start a fake DigitalMicrograph with the server in it, to connect to"
    )
    fake.add_argument("--port", type=int, default=9471, help="0 takes any that is free (default: %(default)s)")
    fake.add_argument("--token", default="", help="default: a new one, printed")
    fake.add_argument("--specimen", default="core-shell", help="of the simulated microscope (default: %(default)s)")
    fake.add_argument("--seed", type=int, default=0, help="of the specimen (default: %(default)s)")
    fake.add_argument("--speed", type=float, default=1.0, help="of its clock; 1 is real time (default: %(default)s)")
    fake.add_argument(
        "--ronchigrams",
        action="store_true",
        help="camera on the angle plane and a corrector's gateway, for an alignment",
    )
    fake.add_argument("--seconds", type=float, help="stop after so long (default: when interrupted)")
    fake.set_defaults(run=_fake_gms)
    return parser


def _add_single_pixel_options(single_pixel: argparse.ArgumentParser) -> None:
    add = single_pixel.add_argument
    add("--backend", default="simulator", help="an instrument with a phase plate (default: %(default)s)")
    add("--backend-setting", action="append", default=[], metavar="KEY=VALUE", help="of the backend; repeatable")
    add("--generator", help="predicted, measured or spot (a raster of the smallest spot)")
    add("--rule", help="information, random, contrast or divergence")
    add("--pixels", type=int, help="side of the picture: 16, 32 or 64")
    add("--patterns", type=int, help="largest number of patterns")
    add(
        "--plate", type=Path, metavar="FILE", help="a calibrated plate (plate.npz); without it the run calibrates first"
    )
    add("--calibrate-only", action="store_true", help="end once the plate is calibrated")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting of the plan; repeatable")
    add("--approve", default="all", metavar="WHAT", help="patterns above a dose limit: a score, all or file:PATH")
    add("--seed", type=int, help="of the simulator, the pool and all that is left to chance")
    add("--out", type=Path, metavar="RUN", help="run folder to make (default: in smarttem-runs at home)")
    single_pixel.set_defaults(run=_single_pixel)


def _add_acquire_options(acquire: argparse.ArgumentParser) -> None:
    instrument = acquire.add_argument_group("instrument")
    instrument.add_argument("--backend", default="simulator", help="see `smarttem backends` (default: %(default)s)")
    instrument.add_argument("--file", type=Path, help="recorded spectrum image, for --backend replay")
    instrument.add_argument("--specimen", help="specimen of the simulator, such as core-shell or two-phase")
    instrument.add_argument(
        "--speed", type=float, help="clock: 1 is real time (default: as fast as the machine can, in virtual time)"
    )
    instrument.add_argument(
        "--backend-setting",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting of the backend; repeatable",
    )
    where = acquire.add_argument_group("where to measure")
    where.add_argument("--choose", metavar="CHOOSER", help="edges, clusters, anomalies, regions, random, grid ...")
    where.add_argument(
        "--chooser-setting", action="append", default=[], metavar="KEY=VALUE", help="of the chooser; repeatable"
    )
    where.add_argument("--points", type=int, help="largest number of points")
    where.add_argument("--time-budget", type=float, metavar="S", help="trim the points to this measuring time")
    where.add_argument(
        "--dose-budget",
        type=float,
        metavar="E",
        help="e/Å² averaged over the field: trims the points, and the guard refuses more",
    )
    where.add_argument(
        "--approve", default="all", metavar="WHAT",
        help="a score between 0 and 1 (approve from there on), 'all', or 'file:PATH' with verdicts (default: all)",
    )  # fmt: skip
    how = acquire.add_argument_group("how to measure")
    how.add_argument("--exposure", type=float, metavar="S", help="per spectrum")
    how.add_argument(
        "--drift-every", type=int, metavar="N", help="re-image and correct the drift every N points; 0: never"
    )
    how.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting of the plan; repeatable"
    )
    how.add_argument(
        "--keep-good", type=int, metavar="N",
        help="before every N-th image of a point (without images: spectrum) read one Ronchigram, and correct what is off",
    )  # fmt: skip
    how.add_argument("--seed", type=int, help="of everything left to chance")
    record = acquire.add_argument_group("record")
    record.add_argument("--out", type=Path, metavar="RUN", help="run folder to make (.smarttem is added)")
    record.add_argument(
        "--no-sync", action="store_true", help="do not force each spectrum to the disk (a power cut may lose seconds)"
    )
    acquire.set_defaults(run=_acquire)


# -- the commands; each imports what it needs -------------------------------------------------------------------------


def _gui(arguments: list[str]) -> int:
    from .widgets.launch import main as launch

    return int(launch(arguments) or 0)


def _acquire(options: argparse.Namespace) -> int:
    from .headless import acquire

    return acquire(options)


def _single_pixel(options: argparse.Namespace) -> int:
    from .headless import single_pixel

    return single_pixel(options)


def _resume(options: argparse.Namespace) -> int:
    from .headless import resume

    return resume(options)


def _verify(options: argparse.Namespace) -> int:
    from .engine.verify import verify

    report = verify(options.run_folder)
    if options.json:
        fields = ("ok", "problems", "steps", "frames", "torn_tail", "outcome")
        _print_json({name: getattr(report, name) for name in fields})
    else:
        for problem in report.problems:
            print(problem)
        torn = "; a last line cut short by a kill was left aside" if report.torn_tail else ""
        verdict = "every line and frame is as it was written" if report.ok else f"{len(report.problems)} problems"
        print(f"{options.run_folder} ({report.outcome}): {report.steps} steps, {report.frames} frames: {verdict}{torn}")
    return 0 if report.ok else 1


def _export(options: argparse.Namespace) -> int:
    from .engine.export import export_run

    print(export_run(options.run_folder, options.to))
    return 0


def _backends(options: argparse.Namespace) -> int:
    from .backends.registry import available

    found = available()
    if options.json:
        fields = ("available", "description", "settings")
        _print_json({name: {key: getattr(entry, key) for key in fields} for name, entry in found.items()})
        return 0
    for name, entry in found.items():
        print(f"{name}\n    {entry}")
        if entry.settings:
            print(f"    settings: {', '.join(entry.settings)}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from .demo import run_demo

    window = False if options.no_window else None
    page = run_demo(
        options.out, seed=options.seed, window=window, say=lambda line: print(line, file=sys.stderr, flush=True)
    )
    print(page)
    return 0


def _bench(options: argparse.Namespace) -> int:
    import importlib

    from .bench.report import reached
    from .schema import BadInput

    names = bench_names()
    if options.name is None:
        print("\n".join(names))
        return 0
    name = options.name.replace("-", "_")
    if name not in names:
        raise BadInput(f"there is no bench {options.name!r}; there are {', '.join(names)}.")
    if options.frames is not None and (name != "alignment" or options.frames < 1):
        raise BadInput("--frames is a number of frames for the bench alignment.")
    if options.keep is not None and name != "alignment":
        raise BadInput("--keep is a file for the results of the bench alignment.")
    more = {key: value for key in ("frames", "keep") if (value := getattr(options, key)) is not None}
    report = importlib.import_module(f"{__package__}.bench.{name}").run(quick=options.quick, seed=options.seed, **more)
    if options.json:
        _print_json(report)
        return 0
    for name, one in report["figures"].items():
        mark = {True: "reached", False: "missed", None: "reported"}[reached(one)]
        goal = "" if one["target"] is None else f"  {one['rule']} {one['target']:g}"
        value = "not measured here" if one["value"] is None else f"{one['value']:.4g}"
        baselines = ", ".join(f"{key} {number:.4g}" for key, number in one["baselines"].items() if number is not None)
        print(f"{name:<32} {value:>12}{goal:<14} {mark:<9} {baselines}")
    return 0


def bench_names() -> list[str]:
    """Names of the benches: the modules of `bench`, without what they share."""
    import pkgutil

    from . import bench

    return sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.ispkg and m.name != "report")


def _check(options: argparse.Namespace) -> int:
    from .backends.digitalmicrograph.doctor import as_report, examine

    def say(finding: Any) -> None:
        print(f"{finding.what:<14} {finding.status:<7} {finding.ms:8.1f} ms  {finding.note}", flush=True)

    findings = examine(options.address, options.token, (lambda _finding: None) if options.json else say)
    report = as_report(options.address, findings)
    if options.json:
        _print_json(report)
    return 0 if report["ok"] else 1


def _fake_gms(options: argparse.Namespace) -> int:
    from .backends.digitalmicrograph.fake_gms import run

    settings: dict[str, Any] = {"specimen": options.specimen, "seed": options.seed, "ronchigrams": options.ronchigrams}
    if options.ronchigrams:
        settings |= {"high_tension_v": 300e3, "misalignment": 1.0, "optics_imperfection": 1.0}
    with run(speed=options.speed, port=options.port, token=options.token, **settings) as running:
        print(f"SIMULATED microscope; address  {running.address}", flush=True)
        print(f"SIMULATED microscope; token    {running.token}", flush=True)
        if running.corrector is not None:
            print(f"SIMULATED corrector; address   {running.corrector.address}", flush=True)
        running.wait(options.seconds)
    return 0


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))
