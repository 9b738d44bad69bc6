"""``python -m napari_smarttem`` is ``smarttem``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
