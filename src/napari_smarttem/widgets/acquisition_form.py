"""The first two pages of the *Acquisition* dock: the overview, and who chooses the points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from ..schema import Field2D, PlanContext, Scan, estimate_dose, estimate_duration
from .dose_meter import dose_text
from .job_bar import duration_text
from .settings_form import SettingsForm
from .tones import set_tone

PRIMARY = (
    "QPushButton { background: #0b72b9; color: white; font-weight: 600; padding: 6px; border-radius: 3px; }"
    "QPushButton:hover { background: #1a87d3; } QPushButton:disabled { background: #4a5260; color: #9aa0a8; }"
)


def primary(text: str) -> QPushButton:
    """The one button of a page that takes the work a step further."""
    button = QPushButton(text)
    button.setStyleSheet(PRIMARY)
    return button


def hint(text: str = "") -> QLabel:
    """A line of explanation, quieter than the rest."""
    label = QLabel(text)
    label.setWordWrap(True)
    set_tone(label, "quiet")
    return label


def cost_text(duration_s: float, dose_e_per_a2: float) -> str:
    """What something takes, in words: time, and dose where the beam current is known."""
    time = duration_text(duration_s) if duration_s >= 1 else f"{1000 * duration_s:.0f} ms"
    return f"{time}, {dose_text(dose_e_per_a2)} e/Å²" if dose_e_per_a2 else time


class OverviewPage(QWidget):
    """What the overview image is to be, what it costs, and the button that takes it."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        from ..acquisition.settings import AcquisitionSettings

        self._context: PlanContext | None = None
        self.field = hint("Connect an instrument first.")
        self.form = SettingsForm(
            AcquisitionSettings,
            ("overview_shape", "overview_dwell_s"),
            labels={"overview_shape": "Rows × columns", "overview_dwell_s": "Dwell per pixel"},
        )
        self.part = QComboBox()
        for text, fraction in (("the whole field", 1.0), ("the middle half", 0.5), ("the middle quarter", 0.25)):
            self.part.addItem(text, fraction)
        self.part.addItem("the part that the canvas shows", None)
        self.part.setToolTip("Which part of the field of view is scanned; points are chosen there")
        self.shown_field: Callable[[], Field2D | None] = lambda: None
        row = QHBoxLayout()
        row.addWidget(QLabel("Scan"))
        row.addWidget(self.part, 1)
        self._signals = QHBoxLayout()
        self._signals.addWidget(QLabel("Detectors"))
        self._boxes: dict[str, QCheckBox] = {}
        self.cost = hint()
        self.button = primary("Take overview")
        column = QVBoxLayout(self)
        column.addWidget(self.field)
        column.addLayout(row)
        column.addWidget(self.form)
        column.addLayout(self._signals)
        column.addWidget(self.cost)
        column.addWidget(self.button)
        column.addStretch(1)
        self.form.changed.connect(self._changed)
        self.part.currentIndexChanged.connect(self._changed)

    def show_context(self, context: PlanContext | None) -> None:
        """Offer what the connected instrument can record."""
        self._context = context
        while self._signals.count() > 1:
            widget = self._signals.takeAt(1).widget()
            if widget is not None:
                widget.deleteLater()
        self._boxes = {}
        if context is None:
            self.field.setText("Connect an instrument first.")
            self._changed()
            return
        field = context.field
        recorded = (
            f"; recorded with {context.native_shape[1]} × {context.native_shape[0]} px" if context.native_shape else ""
        )
        self.field.setText(f"Field of view {field.width_nm:.4g} × {field.height_nm:.4g} nm{recorded}.")
        for i, name in enumerate(context.signals):
            box = QCheckBox(name)
            box.setChecked(True)
            if i == 0:
                box.setToolTip("What the chooser looks at, unless it is switched off")
            box.toggled.connect(self._changed)
            self._boxes[name] = box
            self._signals.addWidget(box)
        self._signals.addStretch(1)
        self._changed()

    def values(self) -> dict[str, Any]:
        """Settings of the acquisition plan."""
        ticked = [name for name, box in self._boxes.items() if box.isChecked()]
        field = self.scan_field()
        part = None if field is None or self.part.currentData() == 1.0 else field.model_dump(mode="json")
        return self.form.values() | {"overview_signals": ticked, "overview_field": part}

    def scan_field(self) -> Field2D | None:
        """What will be scanned; None without an instrument."""
        if self._context is None:
            return None
        whole, fraction = self._context.field, self.part.currentData()
        if fraction is None:
            return _within(self.shown_field(), whole)
        return Field2D(
            y_nm=whole.y_nm + (1 - fraction) / 2 * whole.height_nm,
            x_nm=whole.x_nm + (1 - fraction) / 2 * whole.width_nm,
            height_nm=fraction * whole.height_nm,
            width_nm=fraction * whole.width_nm,
        )

    def put(self, values: dict[str, Any]) -> None:
        """Show settings of the acquisition plan."""
        self.form.put(values)

    def _changed(self, *_: Any) -> None:
        self.cost.setText(self._cost())
        self.changed.emit()

    def _cost(self) -> str:
        if self._context is None:
            return ""
        from ..acquisition.settings import AcquisitionSettings

        values = self.form.values()
        settings = AcquisitionSettings(**values)
        scan = Scan(step_id="cost", shape=settings.scan_shape(self._context), dwell_s=settings.overview_dwell_s)
        rows, columns = scan.shape
        field = self.scan_field() or self._context.field
        pixel = field.width_nm / columns
        cost = cost_text(estimate_duration(scan, self._context), estimate_dose(scan, self._context))
        return f"{columns} × {rows} px of {pixel:.3g} nm: {cost}"


def _within(part: Field2D | None, whole: Field2D) -> Field2D:
    """The part of `part` that lies inside `whole`; all of it where they do not meet."""
    if part is None:
        return whole
    top, left = max(part.y_nm, whole.y_nm), max(part.x_nm, whole.x_nm)
    bottom = min(part.y_nm + part.height_nm, whole.y_nm + whole.height_nm)
    right = min(part.x_nm + part.width_nm, whole.x_nm + whole.width_nm)
    if bottom <= top or right <= left:
        return whole
    return Field2D(y_nm=top, x_nm=left, height_nm=bottom - top, width_nm=right - left)


class ChoosePage(QWidget):
    """Who proposes points, how many, how far apart, within which budget."""

    changed = Signal()
    chooser_changed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        from ..acquisition.choosers import choosers
        from ..acquisition.settings import AcquisitionSettings

        self._choosers = choosers()
        self._kept: dict[str, dict[str, Any]] = {}
        self.chooser = QComboBox()
        for name, chooser in self._choosers.items():
            self.chooser.addItem(chooser.title, name)
            self.chooser.setItemData(self.chooser.count() - 1, chooser.description, 3)
        self.description = hint()
        self.options = SettingsForm()
        self.main = SettingsForm(AcquisitionSettings, ("points", "spacing_nm", "time_budget_s", "dose_budget_e_per_a2"))
        self.more = SettingsForm(
            AcquisitionSettings, ("margin_nm", "order", "settle_distance_nm", "rounds", "keep_approved", "seed")
        )
        self.regions = QGroupBox("Regions you can edit")
        row = QHBoxLayout(self.regions)
        self.find_regions = QPushButton("Find regions")
        self.find_regions.setToolTip(
            "Puts the regions on the canvas as a Labels layer. Paint, erase or fill: the points go where you say"
        )
        self.drop_regions = QPushButton("Forget")
        row.addWidget(self.find_regions, 1)
        row.addWidget(self.drop_regions)
        self.options_box = QGroupBox()
        inner = QVBoxLayout(self.options_box)
        inner.addWidget(self.description)
        inner.addWidget(self.options)
        inner.addWidget(self.regions)
        further = QCollapsible("More")
        further.addWidget(self.more)
        self.button = primary("Propose points")
        column = QVBoxLayout(self)
        column.addWidget(self.chooser)
        column.addWidget(self.options_box)
        column.addWidget(self.main)
        column.addWidget(further)
        column.addWidget(self.button)
        column.addStretch(1)
        self._shown = ""
        self.chooser.currentIndexChanged.connect(self._choose)
        for form in (self.options, self.main, self.more):
            form.changed.connect(self.changed.emit)
        self._choose()

    @property
    def name(self) -> str:
        """The chooser that is shown."""
        return str(self.chooser.currentData())

    def _choose(self, *_: Any) -> None:
        if self._shown:
            self._kept[self._shown] = self.options.values()
        name = self.name
        chooser = self._choosers[name]
        self._shown = name
        self.description.setText(chooser.description)
        self.options.set_model(chooser.options)
        self.options.put(self._kept.get(name, {}))
        self.options.setVisible(bool(self.options.editors))
        self.regions.setVisible(name == "regions")
        self.chooser_changed.emit(name)
        self.changed.emit()

    def values(self) -> dict[str, Any]:
        """Settings of the acquisition plan; edited regions are added by the dock, which has the layer."""
        return {
            "chooser": self.name,
            "chooser_settings": self.options.values(),
            **self.main.values(),
            **self.more.values(),
        }

    def put(self, values: dict[str, Any]) -> None:
        """Show settings of the acquisition plan."""
        index = self.chooser.findData(values.get("chooser"))
        if index >= 0:
            self.chooser.setCurrentIndex(index)
            self.options.put(values.get("chooser_settings", {}))
        self.main.put(values)
        self.more.put(values)
