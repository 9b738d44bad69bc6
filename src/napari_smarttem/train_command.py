"""``smarttem train NAME``: make the weights of a network, on data simulated on the way."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("name", nargs="?", help="what to train; without it, the names there are")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the weights (default models/NAME)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="length of the training; without it, as the trainer says")
    parser.add_argument("--batch", type=int, help="samples a step; without it, as the trainer says")
    parser.add_argument("--minutes", type=float, help="stop after this long; the same command goes on from there")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--afresh", action="store_true", help="begin anew where there is a checkpoint")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, going on from a checkpoint where there is one."""
    from .nn.training import task_for, train, trainers

    if options.name is None:
        print("\n".join(trainers()))
        return 0
    task = task_for(options.name)
    folder = train(
        task,
        options.out or Path("models") / task.name,
        seed=options.seed,
        steps=options.steps,
        minutes=options.minutes,
        batch=options.batch,
        device=options.device,
        threads=options.threads,
        resume=not options.afresh,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(folder)
    return 0
