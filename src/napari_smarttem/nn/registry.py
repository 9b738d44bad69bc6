"""Trained weights by name: a folder with ``weights.safetensors``, ``card.json`` (how they were made), ``card.md`` (to read).

The card holds the architecture, so that weights load into the right network, and the weights' sha256, which is checked: weights
that are not the ones the card speaks of are refused. Nothing here unpickles anything.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema import BadInput, MissingCapability

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, CARD, PAGE = "weights.safetensors", "card.json", "card.md"


@dataclass(frozen=True)
class Model:
    """A network with its weights, ready to be asked, and its card."""

    name: str
    network: nn.Module
    card: Mapping[str, Any]

    @property
    def provenance(self) -> dict[str, Any]:
        """What a result made with it should say."""
        return {"model": self.name, "sha256": self.card["sha256"]}


def require_torch() -> None:
    """Say in one sentence what is missing where torch or safetensors is not installed."""
    import importlib.util

    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingCapability(
            f"this needs {' and '.join(missing)}, which is not installed; install napari-smarttem[nn] "
            "(see docs/how-to/install.md, since the default torch for Linux brings CUDA)."
        )


def folders() -> tuple[Path, ...]:
    """Where weights are looked for: ``SMARTTEM_MODELS``, the wheel's own, the checkout's."""
    stated = os.environ.get("SMARTTEM_MODELS")
    package = Path(__file__).resolve().parents[1]
    return (*((Path(stated),) if stated else ()), package / "models", package.parents[1] / "models")


def find(name: str) -> Path:
    """The folder of the model called `name` (or `name` itself, where it is a folder)."""
    candidates = (Path(name), *(folder / name for folder in folders()))
    for folder in candidates:
        if (folder / CARD).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise BadInput(
        f"there are no weights for {name!r}; `smarttem train {name}` makes them, and SMARTTEM_MODELS names a folder of models."
    )


def available() -> dict[str, Path]:
    """Every model that can be loaded, by name."""
    found: dict[str, Path] = {}
    for folder in folders():
        for card in sorted(folder.glob(f"*/{CARD}")):
            if (card.parent / WEIGHTS).is_file():
                found.setdefault(card.parent.name, card.parent)
    return found


def load(name: str, *, device: str = "cpu") -> Model:
    """The network called `name`, in evaluation mode.

    Raises
    ------
    BadInput
        No such weights, or weights that are not those of the card.
    MissingCapability
        Without torch.
    """
    require_torch()
    from safetensors.torch import load_file

    from .networks import build

    folder = find(name)
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    digest = sha256(folder / WEIGHTS)
    if digest != card["sha256"]:
        raise BadInput(
            f"the weights of {name!r} have the sha256 {digest[:12]}..., the card says {card['sha256'][:12]}...; "
            "they are not used. Train or download them again."
        )
    network = build(card["architecture"])
    network.load_state_dict(load_file(folder / WEIGHTS, device=device))
    return Model(name=folder.name, network=network.to(device).eval(), card=card)


def save(folder: Path, network: nn.Module, architecture: Mapping[str, Any], card: Mapping[str, Any]) -> Path:
    """Write weights and card; what is there before is replaced only once the new files are whole."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{WEIGHTS}.part"
    save_file({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}, part)
    parameters = sum(p.numel() for p in network.parameters())
    whole = {
        **card,
        "architecture": dict(architecture),
        "parameters": parameters,
        "bytes": part.stat().st_size,
        "sha256": sha256(part),
    }
    part.replace(folder / WEIGHTS)
    (folder / CARD).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(page(folder.name, whole), encoding="utf-8")
    return folder


def page(name: str, card: Mapping[str, Any]) -> str:
    """The card for people."""
    lines = [f"# {name}", ""]
    for key, value in card.items():
        if isinstance(value, Mapping):
            lines += [f"## {key}", "", *(f"- {k}: {_said(v)}" for k, v in value.items()), ""]
        else:
            lines += [f"- **{key}**: {_said(value)}"]
    return "\n".join(lines).rstrip() + "\n"


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_said(v) for v in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{k} {_said(v)}" for k, v in value.items())
    return str(value)


def sha256(file: Path) -> str:
    """Of a file's contents, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
