"""A copied program in a Python of its own, without a display."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

CHECK = """
import numpy as np
np.savez('result.npz', maps=result.maps, endmembers=result.endmembers, names=np.array(result.names))
"""


def run_alone(programs, folder):
    """Each program in a folder of its own, all in one Python without a display; returns their results."""
    for name, text in programs.items():
        (folder / name).mkdir()
        (folder / name / "again.py").write_text(text + CHECK, encoding="utf-8")
    run = (
        "import os, runpy, sys\n"
        "for name in sys.argv[1:]:\n"
        "    os.chdir(os.path.join(os.environ['PROGRAMS'], name))\n"
        "    runpy.run_path('again.py', run_name='__main__')\n"
        "    assert os.path.exists('unmixed.hspy')\n"
        "assert not {'napari', 'qtpy'} & set(sys.modules), 'a script needs no window'\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "WAYLAND_DISPLAY", "QT_API"}}
    environment["PROGRAMS"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", run, *programs],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: np.load(folder / name / "result.npz") for name in programs}
