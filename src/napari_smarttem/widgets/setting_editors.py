"""Editors for single settings: numbers with units, choices, ticks, pairs, and values that may be absent."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QValidator
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSpinBox,
    QWidget,
)

from .tones import set_tone

_UNITS = (
    ("_e_per_a2", "e/Å²"),
    ("_px_per_s", "px/s"),
    ("_nm_per_s", "nm/s"),
    ("_mrad", "mrad"),
    ("_nm", "nm"),
    ("_ev", "eV"),
    ("_pa", "pA"),
    ("_px", "px"),
    ("_v", "V"),
    ("_s", "s"),
)


_USUAL = (("s", 60.0), ("nm", 5.0), ("e/Å²", 500.0))


def units_of(name: str, extra: Mapping[str, Any] | None = None) -> str:
    """The units a field's name ends in (``exposure_s``: ``s``), or those its ``json_schema_extra`` names; else ""."""
    if extra and isinstance(extra.get("units"), str):
        return str(extra["units"])
    for suffix, units in _UNITS:
        if name.endswith(suffix):
            return units
    return ""


def label_of(name: str, info: FieldInfo) -> str:
    """What the form calls a field: its title, else its name without the units, in words."""
    if info.title:
        return info.title
    for suffix, _ in _UNITS:
        if name.endswith(suffix):
            name = name[: -len(suffix)]
            break
    return name.replace("_", " ").strip().capitalize()


class NumberBox(QDoubleSpinBox):
    """A number with its units, in a multiple of the unit where that reads better (2e-6 s: 2 µs)."""

    def __init__(self, *, units: str = "", factor: float = 1.0, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._factor = factor
        self.setDecimals(9)
        self.setStepType(QAbstractSpinBox.StepType.AdaptiveDecimalStepType)
        self.setKeyboardTracking(False)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSuffix(f" {units}" if units else "")
        super().setRange(-1e12, 1e12)

    def set_limits(self, minimum: float, maximum: float) -> None:
        """Limits in the field's own units."""
        super().setRange(max(minimum / self._factor, -1e12), min(maximum / self._factor, 1e12))

    def number(self) -> float:
        """The value in the field's own units."""
        return float(f"{self.value() * self._factor:.12g}")

    def set_number(self, value: float) -> None:
        """Show `value`, given in the field's own units."""
        self.setValue(value / self._factor)

    def textFromValue(self, value: float) -> str:
        """Four significant digits instead of nine decimals."""
        return f"{value:.5g}"

    def validate(self, text: str, position: int) -> tuple[Any, str, int]:
        """Let 1e-3 be typed as well as 0.001."""
        bare = text.removesuffix(self.suffix()).strip()
        try:
            number = float(bare)
        except ValueError:
            partial = all(c in "0123456789+-.eE, " for c in bare)
            return (QValidator.State.Intermediate if partial else QValidator.State.Invalid), text, position
        inside = self.minimum() <= number <= self.maximum()
        return (QValidator.State.Acceptable if inside else QValidator.State.Intermediate), text, position

    def valueFromText(self, text: str) -> float:
        """The number typed, units removed."""
        try:
            return float(text.removesuffix(self.suffix()).strip())
        except ValueError:
            return self.value()

    def stepBy(self, steps: int) -> None:
        """A tenth of the value's order of magnitude, also below one (Qt's own adaptive step ends at its decimals)."""
        value = self.value()
        magnitude = 10.0 ** math.floor(math.log10(abs(value))) if value else 1.0
        self.setValue(float(f"{value + steps * magnitude / 10:.6g}"))

    def wheelEvent(self, event: Any) -> None:
        """The wheel scrolls the dock and changes a number only where it was clicked first."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class WholeBox(QSpinBox):
    """A whole number that the wheel changes only after a click."""

    def __init__(self, units: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setKeyboardTracking(False)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setGroupSeparatorShown(True)
        self.setSuffix(f" {units}" if units else "")
        self.setRange(-(2**31), 2**31 - 1)

    def wheelEvent(self, event: Any) -> None:
        """See `NumberBox.wheelEvent`."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class Editor(QWidget):
    """One field's editor: `get`, `put`, `changed`."""

    changed = Signal()

    def __init__(self, widget: QWidget | None = None) -> None:
        super().__init__()
        self.row = QHBoxLayout(self)
        self.row.setContentsMargins(0, 0, 0, 0)
        self.row.setSpacing(4)
        if widget is not None:
            self.row.addWidget(widget, 1)

    def get(self) -> Any:
        """The value, as the settings model wants it."""
        raise AssertionError("every editor says what its value is")

    def put(self, value: Any) -> None:
        """Show a value."""
        raise AssertionError("every editor can show a value")


class _Number(Editor):
    def __init__(self, name: str, info: FieldInfo, kind: type, default: Any) -> None:
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, Mapping) else None
        units = units_of(name, extra)
        low, high = _limits(info)
        self._kind = kind
        if kind is int:
            box: Any = WholeBox(units)
            box.setRange(max(math.ceil(low), -(2**31)), min(math.floor(high), 2**31 - 1))
        else:
            units, factor = _readable(units, default)
            box = NumberBox(units=units, factor=factor)
            box.set_limits(low, high)
        super().__init__(box)
        self.box = box
        box.valueChanged.connect(lambda *_: self.changed.emit())

    def get(self) -> Any:
        return int(self.box.value()) if self._kind is int else self.box.number()

    def put(self, value: Any) -> None:
        if self._kind is int:
            self.box.setValue(int(value))
        else:
            self.box.set_number(float(value))


class _Check(Editor):
    def __init__(self) -> None:
        self.box = QCheckBox()
        super().__init__(self.box)
        self.box.toggled.connect(lambda *_: self.changed.emit())

    def get(self) -> bool:
        return self.box.isChecked()

    def put(self, value: Any) -> None:
        self.box.setChecked(bool(value))


class _Choice(Editor):
    def __init__(self, choices: Iterable[Any]) -> None:
        self.box = QComboBox()
        self.box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        for choice in choices:
            self.box.addItem(str(choice.value if isinstance(choice, Enum) else choice).replace("_", " "), choice)
        super().__init__(self.box)
        self.box.currentIndexChanged.connect(lambda *_: self.changed.emit())

    def get(self) -> Any:
        value = self.box.currentData()
        return value.value if isinstance(value, Enum) else value

    def put(self, value: Any) -> None:
        for i in range(self.box.count()):
            if self.box.itemData(i) == value:
                self.box.setCurrentIndex(i)
                return


class _Text(Editor):
    def __init__(self, *, many: bool = False) -> None:
        self.box = QLineEdit()
        self._many = many
        if many:
            self.box.setPlaceholderText("all" if many else "")
        super().__init__(self.box)
        self.box.editingFinished.connect(self.changed.emit)

    def get(self) -> Any:
        text = self.box.text().strip()
        return [part.strip() for part in text.split(",") if part.strip()] if self._many else text

    def put(self, value: Any) -> None:
        self.box.setText(", ".join(map(str, value)) if self._many else str(value))


class _Ticks(Editor):
    """Any of a few words, each with its tick."""

    def __init__(self, choices: Iterable[str]) -> None:
        super().__init__()
        self.boxes = {choice: QCheckBox(choice.replace("_", " ")) for choice in choices}
        for box in self.boxes.values():
            self.row.addWidget(box)
            box.toggled.connect(lambda *_: self.changed.emit())
        self.row.addStretch(1)

    def get(self) -> list[str]:
        return [choice for choice, box in self.boxes.items() if box.isChecked()]

    def put(self, value: Any) -> None:
        for choice, box in self.boxes.items():
            box.setChecked(choice in value)


class _Several(Editor):
    """A fixed number of numbers: rows × columns."""

    def __init__(self, name: str, info: FieldInfo, kinds: tuple[type, ...], default: Any) -> None:
        super().__init__()
        defaults = default if isinstance(default, (tuple, list)) else [None] * len(kinds)
        self.editors = [_Number(name, info, kind, start) for kind, start in zip(kinds, defaults, strict=True)]
        for i, editor in enumerate(self.editors):
            if i:
                self.row.addWidget(QLabel("×"))
            self.row.addWidget(editor, 1)
            editor.changed.connect(self.changed.emit)

    def get(self) -> Any:
        return [editor.get() for editor in self.editors]

    def put(self, value: Any) -> None:
        for editor, one in zip(self.editors, value, strict=True):
            editor.put(one)


class _Optional(Editor):
    """A value that may be absent: a tick, and the editor beside it; unticked, what is done instead."""

    def __init__(self, inner: Editor, suggestion: Any, absent: str) -> None:
        super().__init__()
        self.tick = QCheckBox()
        self.inner = inner
        self._suggestion = suggestion
        self.absent = QLabel(absent)
        set_tone(self.absent, "quiet")
        self.row.addWidget(self.tick)
        self.row.addWidget(inner, 1)
        self.row.addWidget(self.absent, 1)
        if suggestion is not None:
            inner.put(suggestion)
        inner.setVisible(False)
        self.tick.toggled.connect(self._toggled)
        inner.changed.connect(self.changed.emit)

    def _toggled(self, on: bool) -> None:
        self.inner.setVisible(on)
        self.absent.setVisible(not on)
        self.changed.emit()

    def get(self) -> Any:
        return self.inner.get() if self.tick.isChecked() else None

    def put(self, value: Any) -> None:
        if value is not None:
            self.inner.put(value)
        self.tick.setChecked(value is not None)


def _limits(info: FieldInfo) -> tuple[float, float]:
    low, high = -math.inf, math.inf
    for rule in info.metadata:
        if isinstance(rule, annotated_types.Ge):
            low = max(low, float(rule.ge))
        elif isinstance(rule, annotated_types.Gt):
            low = max(low, math.nextafter(float(rule.gt), math.inf) if rule.gt else 1e-9)
        elif isinstance(rule, annotated_types.Le):
            high = min(high, float(rule.le))
        elif isinstance(rule, annotated_types.Lt):
            high = min(high, math.nextafter(float(rule.lt), -math.inf))
    return max(low, -1e15), min(high, 1e15)


def _readable(units: str, default: Any) -> tuple[str, float]:
    if units == "s" and isinstance(default, (int, float)) and 0 < default < 1e-3:
        return "µs", 1e-6
    if units == "s" and isinstance(default, (int, float)) and 0 < default < 1:
        return "ms", 1e-3
    return units, 1.0


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [a for a in get_args(annotation) if a is not type(None)]
        return (kinds[0] if len(kinds) == 1 else Union[tuple(kinds)]), len(kinds) < len(get_args(annotation))  # noqa: UP007
    return annotation, False


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def editor_for(name: str, info: FieldInfo) -> Editor | None:
    """The editor of a field, or None for a kind of field that a form cannot show (a nested model, a mapping)."""
    annotation, optional = _without_none(_bare(info.annotation))
    annotation = _bare(annotation)
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, Mapping) else {}
    suggestion = extra.get("suggestion", default)
    origin = get_origin(annotation)
    editor: Editor | None = None
    if annotation is bool:
        editor = _Check()
    elif annotation in (int, float):
        editor = _Number(name, info, annotation, default if default is not None else suggestion)
    elif annotation is str:
        editor = _Text()
    elif origin is Literal:
        editor = _Choice(get_args(annotation))
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        editor = _Choice(annotation)
    elif origin is tuple:
        kinds = tuple(_bare(kind) for kind in get_args(annotation))
        if kinds == (str, Ellipsis):
            editor = _Text(many=True)
        elif len(kinds) == 2 and get_origin(kinds[0]) is Literal and kinds[1] is Ellipsis:
            editor = _Ticks(get_args(kinds[0]))
        elif kinds and all(kind in (int, float) for kind in kinds):
            editor = _Several(name, info, kinds, default)
    if editor is None:
        return None
    if optional:
        absent = "no limit" if "budget" in name else "automatic"
        editor = _Optional(editor, suggestion if suggestion is not None else _fallback(annotation, name), absent)
    if default is not None or optional:
        editor.put(default)
    return editor


def _fallback(annotation: Any, name: str) -> Any:
    """A value to begin with once an absent setting is ticked and nothing better is known."""
    if get_origin(annotation) is tuple:
        return tuple(256 for _ in get_args(annotation))
    if annotation is float:
        return next((value for units, value in _USUAL if units_of(name) == units), 1.0)
    return 100 if annotation is int else None
