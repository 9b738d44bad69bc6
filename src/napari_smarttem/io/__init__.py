"""Files in, files out: anything RosettaSciIO reads becomes `Frame`s, and frames become files that other programs open."""

from .read import EXTENSIONS, is_spectrum_image, read, summed_counts

__all__ = ["EXTENSIONS", "is_spectrum_image", "read", "summed_counts"]
