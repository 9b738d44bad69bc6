"""The Spectrum dock."""

from .energy_windows import EnergyWindow, EnergyWindows, windows_of
from .spectrum_plot import SpectrumPlot

__all__ = ["EnergyWindow", "EnergyWindows", "SpectrumPlot", "windows_of"]
