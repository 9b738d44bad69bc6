"""Smart acquisition: from an overview to the places worth measuring, and the plan that measures them."""

from .settings import AcquisitionSettings, merged, parse

__all__ = ["AcquisitionSettings", "merged", "parse"]
