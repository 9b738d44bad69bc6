"""Opens the real window on a run folder, takes a picture of it and closes: ``python -m napari_smarttem.demo_window RUN PNG``.

A program of its own, so that the demonstration can give it a time limit and outlive a window system that fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

SETTLE_S = 3.0
WINDOW = (1600, 1000)


def main(run: Path, picture: Path) -> int:
    """Show `run` beside the docks and write `picture`."""
    import napari
    from qtpy.QtCore import QTimer

    from .widgets.launch import arrange

    viewer = napari.Viewer(show=False)
    viewer.window.resize(*WINDOW)
    arrange(viewer, ("simulator", {"speed": None}))
    viewer.open(run, plugin="napari-smarttem")
    viewer.canvas.overlays.scale_bar.visible = True
    viewer.window.show()

    def take() -> None:
        viewer.reset_view()
        viewer.screenshot(str(picture), canvas_only=False, flash=False)
        viewer.close()

    QTimer.singleShot(int(SETTLE_S * 1000), take)
    napari.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
