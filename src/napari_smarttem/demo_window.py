"""Opens the real window on a run folder, takes a picture of it and closes: ``python -m napari_smarttem.demo_window RUN PNG``.

A program of its own, so that the demonstration can give it a time limit and outlive a window system that fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

WINDOW = (1600, 1000)
POLL_MS = 250
SETTLE_MS = 2500
"""From the first drawing on: docks that open later have found their place by then."""


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

    def wait_for_canvas() -> None:
        # On a slow machine the window is there long before OpenGL is, and a picture of it would be black.
        if _canvas_is_drawn():
            QTimer.singleShot(SETTLE_MS, take)
        else:
            QTimer.singleShot(POLL_MS, wait_for_canvas)

    wait_for_canvas()
    napari.run()
    return 0


def _canvas_is_drawn() -> bool:
    """True once every OpenGL canvas that can be seen has its context."""
    from qtpy.QtOpenGLWidgets import QOpenGLWidget
    from qtpy.QtWidgets import QApplication

    canvases = [w for w in QApplication.allWidgets() if isinstance(w, QOpenGLWidget) and w.isVisible()]
    return bool(canvases) and all(canvas.isValid() for canvas in canvases)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
