"""The Alignment dock in a window, on a whole simulated column, and what its tests do again and again."""

from __future__ import annotations

import pytest

from napari_smarttem.widgets.alignment import AlignmentDock

WAIT = 60_000


@pytest.fixture
def dock(shown_viewer, session, column, target, qtbot):
    """The dock on `column` with `target` chosen; both are fixtures of the test's own."""
    session.use(column)
    dock = AlignmentDock(shown_viewer)
    shown_viewer.window.add_dock_widget(dock, name="Alignment")
    qtbot.waitUntil(lambda: dock.target is not None, timeout=WAIT)
    dock.choose(target)
    yield dock
    shown_viewer.window.remove_dock_widget(dock)


def clicked(button, dock, qtbot):
    """A button that begins a run pressed, and the run finished well."""
    assert button.isEnabled(), button.toolTip()
    button.click()
    qtbot.waitUntil(
        lambda: not dock._starting and not dock.session.status.active and dock.record.going is None, timeout=WAIT
    )
    dock.relay.flush()
    qtbot.waitUntil(lambda: not dock.pictures.probe.waiting, timeout=WAIT)
    assert dock.session.status.outcome == "finished", dock.session.status


def drawn(viewer, widget, qtbot):
    """What a person sees of a widget: its part of a picture of the window, ``(y, x, 3)``."""
    qtbot.wait(200)
    picture = viewer.screenshot(canvas_only=False, flash=False)
    corner = widget.mapTo(viewer.window._qt_window, widget.rect().topLeft())
    return picture[corner.y() : corner.y() + widget.height(), corner.x() : corner.x() + widget.width(), :3]
