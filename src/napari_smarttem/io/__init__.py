"""Files in, files out: what RosettaSciIO reads becomes `Frame`s, and frames become files other programs open."""

from .read import EXTENSIONS, is_line_scan, is_spectrum_image, read, summed_counts
from .write import WRITES, write, write_table

__all__ = ["EXTENSIONS", "WRITES", "is_line_scan", "is_spectrum_image", "read", "summed_counts", "write", "write_table"]
