"""A form made from a settings model: one editor per field, with units, limits and tooltips taken from the model itself.

Nothing about a particular chooser is known here: whoever writes a settings model gets its form for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QLabel, QWidget

from .setting_editors import Editor, editor_for, label_of


class SettingsForm(QWidget):
    """Editors for (some) fields of a pydantic settings model.

    Parameters
    ----------
    model : type of BaseModel, optional
        May be set or exchanged later with `set_model`.
    fields : iterable of str, optional
        Show these, in this order; default all that a form can show.
    labels : mapping, optional
        What to call some of them instead of their own names.
    """

    changed = Signal()

    def __init__(
        self,
        model: type[BaseModel] | None = None,
        fields: Iterable[str] | None = None,
        *,
        hidden: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._labels = dict(labels or {})
        self._form = QFormLayout(self)
        self._form.setContentsMargins(0, 0, 0, 0)
        self._form.setVerticalSpacing(4)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.DontWrapRows)
        self.editors: dict[str, Editor] = {}
        if model is not None:
            self.set_model(model, fields, hidden=hidden)

    def set_model(
        self, model: type[BaseModel], fields: Iterable[str] | None = None, *, hidden: Iterable[str] = ()
    ) -> None:
        """Show the editors of another model, at its defaults."""
        while self._form.rowCount():
            self._form.removeRow(0)
        self.editors = {}
        skip = set(hidden)
        for name in fields if fields is not None else model.model_fields:
            if name in skip:
                continue
            info = model.model_fields[name]
            editor = editor_for(name, info)
            if editor is None:
                continue
            label = QLabel(self._labels.get(name) or label_of(name, info))
            for widget in (label, editor):
                widget.setToolTip(info.description or "")
            label.setBuddy(editor)
            editor.setObjectName(name)
            self._form.addRow(label, editor)
            self.editors[name] = editor
            editor.changed.connect(self.changed.emit)

    def values(self) -> dict[str, Any]:
        """What the form says now, JSON values only; the model judges it."""
        return {name: editor.get() for name, editor in self.editors.items()}

    def put(self, values: Mapping[str, Any]) -> None:
        """Show these values; names the form does not have are left alone."""
        for name, value in values.items():
            if name in self.editors:
                self.editors[name].put(value)
