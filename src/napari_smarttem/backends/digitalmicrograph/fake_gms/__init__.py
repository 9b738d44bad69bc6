"""A stand-in for Gatan's GMS: its Python module, DigiScan, camera, energy filter and column, over a simulated specimen.

It is for trying the bridge, and scripts of one's own, without a microscope: ``smarttem fake-gms`` starts it. It is meant to
be harder than the real thing: whole hardware steps, a beam that is parked and scan control that is lost after every scan,
array views that die with their image, units as bytes, functions that are missing on some filters, calls from a second thread
refused, and everything that is left behind counted.
"""

from __future__ import annotations

from .corrector import FakeCorrector
from .gms import MODELS, FakeGMS
from .running import Running, run
from .world import InstantWorld, SimulatedWorld

__all__ = ["MODELS", "FakeCorrector", "FakeGMS", "InstantWorld", "Running", "SimulatedWorld", "run"]
