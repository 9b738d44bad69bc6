"""What a long bench says while it works."""

from __future__ import annotations

import sys
import time


class Progress:
    """Says on standard error what goes on and since when."""

    def __init__(self, bench: str) -> None:
        self._bench, self._began = bench, time.monotonic()

    def __call__(self, words: str) -> None:
        """Say it."""
        print(f"{self._bench} bench, {time.monotonic() - self._began:5.0f} s: {words}", file=sys.stderr, flush=True)
