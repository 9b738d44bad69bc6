"""Nion Swift's simulated column, headless, as a microscope that is not ours: a process of its own in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .instrument import NionInstrument


def connect(
    python: str = "", *, field_nm: float = 200.0, sample: int = 0, beam_current_pa: float | None = 200.0
) -> NionInstrument:
    """Use Nion Swift's simulated microscope, nionswift-usim, which runs in a process of its own.

    Parameters
    ----------
    python : str
        Interpreter of an environment with nionswift-usim; empty: the environment variable ``SMARTTEM_NION_PYTHON``, else this one.
    field_nm : float
        Side of the scan field, 10 to 1000 nm.
    sample : int
        0 flakes, 1 amorphous, 2 both.
    beam_current_pa : float, optional
        For counting the dose.
    """
    from .instrument import NionInstrument

    return NionInstrument(python, float(field_nm), int(sample), beam_current_pa)
