"""Interactive, human-in-the-loop electron microscopy in napari."""

from ._version import __version__

__all__ = ["__version__"]
