"""Who holds the window's thread, and for how long: a thread that looks at its stack a few hundred times a second.

Only calls of this package count: a sample counts where the stack holds a frame of the package's own code. Drawing (Qt's paint
events and OpenGL, which software renderers do on the same thread) starts from Qt's event loop, not from our code, and so stands
apart by itself; it is measured too, and given as `longest_other_s`.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Self

_PACKAGE = str(Path(__file__).parents[2])
_BENCH = str(Path(__file__).parents[1])


class BlockWatch:
    """Context manager; to be entered on the thread that is watched.

    Attributes
    ----------
    longest_ours_s : float
        Longest single call of our code, entered from Qt's event loop.
    longest_ours_where : str
        Its outermost and innermost function.
    longest_other_s : float
        Longest stretch spent in one handler of somebody else's.
    samples : int
    """

    def __init__(self, period_s: float = 0.002) -> None:
        self.longest_ours_s = 0.0
        self.longest_ours_where = ""
        self.longest_other_s = 0.0
        self.longest_other_where = ""
        self.samples = 0
        self._period_s = period_s
        self._stop = threading.Event()
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="block-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        began: dict[str, tuple[int, float]] = {}
        while not self._stop.wait(self._period_s):
            frame = sys._current_frames().get(self._watched)
            now = time.perf_counter()
            self.samples += 1
            ours, other, inside = _outermost(frame)
            for kind, call in (("ours", ours), ("other", other)):
                if call is None:
                    began.pop(kind, None)
                    continue
                # the same frame object seen twice is the same call
                if kind not in began or began[kind][0] != id(call):
                    began[kind] = (id(call), now)
                    continue
                took = now - began[kind][1]
                if kind == "ours" and took > self.longest_ours_s:
                    self.longest_ours_s, self.longest_ours_where = took, f"{_name(call)} in {inside}"
                elif kind == "other" and took > self.longest_other_s:
                    self.longest_other_s, self.longest_other_where = took, f"{_name(call)} in {inside}"


def _outermost(frame: FrameType | None) -> tuple[FrameType | None, FrameType | None, str]:
    """The outermost frame of ours, or else the outermost handler of somebody else's; and the innermost function."""
    stack: list[FrameType] = []
    inside = "" if frame is None else _name(frame)
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    stack.reverse()
    above_bench = [f for f in stack if not f.f_code.co_filename.startswith((_BENCH, "<frozen"))]
    ours = [f for f in above_bench if f.f_code.co_filename.startswith(_PACKAGE)]
    if ours:
        return ours[0], None, f"{_name(ours[-1])} (line {ours[-1].f_lineno}), {inside}"
    last_of_bench = max((i for i, f in enumerate(stack) if f.f_code.co_filename.startswith(_BENCH)), default=-1)
    rest = stack[last_of_bench + 1 :]
    return None, rest[0] if rest else None, inside


def _name(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_qualname}"
