"""One training loop for every network: data made on the way, a seed, checkpoints, resume, CPU or CUDA.

A *task* says what is trained: it builds the network, makes the batch of a step, and says the loss. Batch k of seed s is always the
same, so that a training that was killed and resumed has seen the same data as one that was not.

Checkpoints are safetensors and JSON (no pickle): the network, the running mean of its weights (which is what is kept), the
optimiser's moments, and the step.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from ..schema import BadInput
from . import registry

GROUP = "napari_smarttem.trainers"


class Task(Protocol):
    """What `train` needs to know of a network's purpose; every trainer in `napari_smarttem.trainers` makes one.

    The entry point is a callable without arguments that returns the task.
    """

    name: str
    """Of the weights' folder."""
    steps: int
    """Default length of a training."""
    batch: int
    """Frames a step."""
    rate: float
    """Learning rate at the top."""

    def architecture(self) -> dict[str, Any]:
        """As `networks.build` takes it."""
        ...

    def prepare(self, network: Any) -> None:
        """Change a fresh network's weights where something better than chance is known; may do nothing."""
        ...

    def data(self, step: int, steps: int, seed: int, batch: int, device: str) -> Any:
        """The batch of a step, made from ``(seed, step)`` alone."""
        ...

    def loss(self, network: Any, data: Any) -> Any:
        """A scalar tensor."""
        ...

    def validate(self, network: Any, device: str) -> dict[str, float]:
        """Figures on data never trained on; ``"score"`` among them, smaller is better."""
        ...

    def card(self) -> dict[str, Any]:
        """What the card says of data and ranges."""
        ...


def trainers() -> tuple[str, ...]:
    """Names of everything that can be trained."""
    return tuple(sorted(point.name for point in entry_points(group=GROUP)))


def task_for(name: str) -> Task:
    """The task registered under `name`; `BadInput` names those there are."""
    for point in entry_points(group=GROUP, name=name):
        task: Task = point.load()()
        return task
    raise BadInput(f"there is nothing to train called {name!r}; there are {', '.join(trainers()) or 'none'}.")


def train(
    task: Task,
    folder: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    resume: bool = True,
    checkpoint_s: float = 60.0,
    validate_s: float = 300.0,
    say: Callable[[str], None] = print,
) -> Path:
    """Train `task` into `folder`, or go on where a training stopped; returns the folder.

    Parameters
    ----------
    folder : Path
        Gets ``weights.safetensors``, ``card.json`` and ``card.md`` of the best weights so far, and ``checkpoint/``.
    seed : int
    steps : int or None
        Length of the training; the learning rate falls over the last third of it.
    minutes : float or None
        Stop (resumably) after this long.
    batch : int or None
        Frames a step; None: the task's own.
    device : str
        ``"cpu"`` or ``"cuda"``.
    resume : bool
        False begins anew.
    checkpoint_s, validate_s : float
        How often the state is saved, and the figures measured.

    Raises
    ------
    BadInput
        The checkpoint is of another training.
    """
    registry.require_torch()
    import torch

    from .networks import build

    if threads:
        torch.set_num_threads(threads)
    steps, batch = steps or task.steps, batch or task.batch
    torch.manual_seed(seed)
    network = build(task.architecture())
    task.prepare(network)
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=task.rate, weight_decay=1e-4)
    averaged = build(task.architecture()).to(device)
    averaged.load_state_dict(network.state_dict())
    plan = {"task": task.name, "seed": seed, "steps": steps, "batch": batch, "architecture": task.architecture()}
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "best": math.inf, "plan": plan}
    kept = folder / "checkpoint"
    if resume and (kept / "state.json").is_file():
        state = _restore(kept, network, averaged, optimiser, plan=plan, device=device)
        say(f"going on from step {state['step']} of {steps}")
    began = saved = validated = time.monotonic()
    spent = float(state["seconds"])
    running = 0.0
    for step in range(int(state["step"]), steps):
        for group in optimiser.param_groups:
            group["lr"] = task.rate * _schedule(step, steps)
        network.train()
        loss = task.loss(network, task.data(step, steps, seed, batch, device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        _average(averaged, network, min(0.999, (step + 1) / (step + 10)))
        running = float(loss.detach()) if running == 0.0 else 0.98 * running + 0.02 * float(loss.detach())
        now = time.monotonic()
        state.update(step=step + 1, seconds=spent + now - began)
        last = step + 1 == steps
        out_of_time = minutes is not None and now - began > 60 * minutes
        if last or out_of_time or now - validated > validate_s:
            state["best"] = _keep_best(task, averaged, folder, state=state, device=device, say=say, loss=running)
            validated = time.monotonic()
        if last or out_of_time or now - saved > checkpoint_s:
            _store(kept, network, averaged, optimiser, state)
            say(f"step {step + 1}/{steps}  loss {running:.4f}  {state['seconds'] / 60:.1f} min")
            saved = time.monotonic()
        if out_of_time:
            break
    return folder


def _schedule(step: int, steps: int) -> float:
    """Warm-up, plateau, and a fall over the last third."""
    warm = min(1.0, (step + 1) / min(200, max(1, steps // 10)))
    left = (steps - step) / max(1.0, steps / 3)
    return float(warm * min(1.0, 0.02 + 0.98 * left))


def _average(averaged: Any, network: Any, keep: float) -> None:
    import torch

    with torch.no_grad():
        for name, value in averaged.state_dict().items():
            new = network.state_dict()[name]
            if value.dtype.is_floating_point:
                value.lerp_(new, 1 - keep)
            else:
                value.copy_(new)


def _keep_best(
    task: Task,
    network: Any,
    folder: Path,
    *,
    state: Mapping[str, Any],
    device: str,
    say: Callable[[str], None],
    loss: float,
) -> float:
    network.eval()
    figures = task.validate(network, device)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
    say(f"step {state['step']}  validation: {shown}")
    best = float(state["best"])
    if figures["score"] >= best:
        return best
    plan = state["plan"]
    card = {
        "name": task.name,
        **task.card(),
        "metrics": figures,
        "training": {
            "command": f"smarttem train {task.name.replace('_', '-')} "
            f"--seed {plan['seed']} --steps {plan['steps']} --batch {plan['batch']}",
            "seed": plan["seed"],
            "steps_done": state["step"],
            "steps_planned": plan["steps"],
            "batch": plan["batch"],
            "samples": state["step"] * plan["batch"],
            "hours": round(float(state["seconds"]) / 3600, 3),
            "loss": loss,
            "machine": machine(device),
        },
    }
    registry.save(folder, network, task.architecture(), card)
    return figures["score"]


def machine(device: str = "cpu") -> str:
    """The kind of machine this is, in a few words and without its name."""
    import torch

    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def _moments(network: Any, optimiser: Any) -> Iterator[tuple[str, Any]]:
    for name, parameter in network.named_parameters():
        yield name, optimiser.state.get(parameter, {})


def _store(kept: Path, network: Any, averaged: Any, optimiser: Any, state: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    kept.mkdir(parents=True, exist_ok=True)
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"averaged.{k}": v for k, v in averaged.state_dict().items()}
    for name, moments in _moments(network, optimiser):
        tensors |= {f"moments.{name}.{k}": v for k, v in moments.items()}
    number = int(state["step"])
    file = kept / f"{number}.safetensors"
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, file)
    part = kept / "state.json.part"
    best = state["best"] if math.isfinite(state["best"]) else None
    part.write_text(json.dumps({**state, "best": best, "file": file.name}), encoding="utf-8")
    part.replace(kept / "state.json")  # from here on the new checkpoint holds; the old one may go
    for old in kept.glob("*.safetensors"):
        if old != file:
            old.unlink()


def _restore(
    kept: Path, network: Any, averaged: Any, optimiser: Any, *, plan: Mapping[str, Any], device: str
) -> dict[str, Any]:
    from safetensors.torch import load_file

    state: dict[str, Any] = json.loads((kept / "state.json").read_text(encoding="utf-8"))
    if state["plan"] != plan:
        raise BadInput(
            f"the checkpoint in {kept} is of another training ({state['plan']}); give another folder, or begin anew."
        )
    tensors = load_file(kept / state["file"], device=device)

    def part(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    network.load_state_dict(part("network."))
    averaged.load_state_dict(part("averaged."))
    for name, parameter in network.named_parameters():
        moments = {key: tensors[f"moments.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
                   if f"moments.{name}.{key}" in tensors}  # fmt: skip
        if moments:
            optimiser.state[parameter] = moments
    state["best"] = math.inf if state["best"] is None else float(state["best"])
    return state
