"""What a long bench says while it works."""

from __future__ import annotations

import sys
import time


class Progress:
    """Says on standard error what goes on, since when, and how much of a core it took this process."""

    def __init__(self, bench: str) -> None:
        self._bench, self._began = bench, time.monotonic()

    def __call__(self, words: str) -> None:
        """Say it."""
        clock, core = time.monotonic() - self._began, time.process_time()
        print(f"{self._bench} bench, {clock:5.0f} s (core {core:5.0f} s): {words}", file=sys.stderr, flush=True)
