"""The table: the right rows in the right order, quickly, and a selection that survives both."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("qtpy")
pytestmark = pytest.mark.gui

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from qtpy.QtCore import Qt  # noqa: E402
from qtpy.QtGui import QIcon  # noqa: E402

from napari_smarttem.schema import JudgedTarget, Target, TargetState  # noqa: E402
from napari_smarttem.widgets.target_table import REASON, TargetModel, TargetTable, _runs  # noqa: E402


def targets(n: int, seed: int = 0) -> list[JudgedTarget]:
    rng = np.random.default_rng(seed)
    return [
        JudgedTarget(
            target=Target(
                target_id=f"r0-{i:04d}", y_nm=float(y), x_nm=float(x), score=float(s), label="edge", reason="gradient"
            ),
            state=TargetState.PROPOSED,
        )
        for i, (y, x, s) in enumerate(zip(*rng.random((3, n)), strict=True))
    ]


def with_state(item: JudgedTarget, state: TargetState) -> JudgedTarget:
    return item.model_copy(update={"state": state})


@pytest.fixture
def model(qapp):
    return TargetModel(icons={state: QIcon() for state in TargetState})


def test_sorting_by_score_is_by_number_and_can_be_taken_back(model):
    items = targets(200)
    model.set_items(items)
    model.sort(1, Qt.SortOrder.DescendingOrder)
    shown = [model.item(r).target.score for r in range(model.rowCount())]
    assert shown == sorted((i.target.score for i in items), reverse=True)
    model.sort(-1)
    assert model.ids(range(5)) == [i.target.target_id for i in items[:5]]


def test_a_verdict_repaints_its_rows_and_no_others(model, qtbot):
    items = targets(100)
    model.set_items(items)
    model.sort(1)
    painted: list[int] = []
    model.dataChanged.connect(lambda a, b: painted.extend(range(a.row(), b.row() + 1)))
    new = list(items)
    for i in (3, 50, 51):
        new[i] = with_state(new[i], TargetState.APPROVED)
    assert model.set_items(new) == "rows"
    assert sorted(model.ids(painted)) == ["r0-0003", "r0-0050", "r0-0051"]
    assert model.set_items(new) == "nothing"


def test_the_filter_follows_the_verdicts(model):
    items = targets(10)
    model.set_items(items)
    model.set_filter({TargetState.PROPOSED})
    new = list(items)
    new[4] = with_state(new[4], TargetState.REJECTED)
    assert model.set_items(new) == "reset"
    assert model.rowCount() == 9
    assert "r0-0004" not in model.ids(range(9))


def test_the_selection_outlives_sorting_filtering_and_new_rows(model, qtbot):
    items = targets(30)
    model.set_items(items)
    table = TargetTable(model)
    qtbot.addWidget(table)
    told: list[frozenset[str]] = []
    table.selection_changed.connect(told.append)
    table.select({"r0-0002", "r0-0029"})
    assert told == []
    table.sortByColumn(1, Qt.SortOrder.AscendingOrder)
    rows = {i.row() for i in table.selectionModel().selectedRows()}
    assert set(model.ids(rows)) == {"r0-0002", "r0-0029"}
    model.set_items(targets(31))
    assert table.selected_ids() == {"r0-0002", "r0-0029"}
    table.selectRow(0)
    assert told[-1] == frozenset(model.ids([0]))


@pytest.mark.parametrize("change", ["all states", "one state"])
def test_ten_thousand_targets_stay_quick(model, change):
    items = targets(10_000)
    model.set_items(items)
    model.sort(1)
    new = list(items)
    for i in range(10_000) if change == "all states" else (17,):
        new[i] = with_state(new[i], TargetState.APPROVED)
    started = time.process_time()
    assert model.set_items(new) == "rows"
    assert time.process_time() - started < 0.15


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 60)))
def test_runs_hold_each_row_once(rows):
    ordered = sorted(rows)
    told = [r for first, last in _runs(np.array(ordered, dtype=int)) for r in range(first, last + 1)]
    assert told == ordered


def test_the_reason_ends_with_dots_at_the_edge_of_a_narrow_table(qtbot):
    table = TargetTable(TargetModel())
    qtbot.addWidget(table)
    table.resize(310, 200)
    with qtbot.waitExposed(table):
        table.show()
    used = sum(table.columnWidth(column) for column in range(REASON + 1))
    assert abs(used - table.viewport().width()) <= 1
    table.resize(1200, 200)
    assert abs(sum(table.columnWidth(c) for c in range(7)) - table.viewport().width()) <= 1, "room is used"
    table.setColumnWidth(REASON, 77)
    table.resize(900, 200)
    assert table.columnWidth(REASON) == 77, "a person's width stays"
