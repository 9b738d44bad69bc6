"""The form is made from the settings model: what it shows, it gives back, in the model's own units."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

pytest.importorskip("qtpy")
pytestmark = pytest.mark.gui

from napari_smarttem.widgets.setting_editors import NumberBox, units_of  # noqa: E402
from napari_smarttem.widgets.settings_form import SettingsForm  # noqa: E402


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    chooser: Literal["edges", "grid"] = "edges"
    points: int = Field(default=50, ge=1, le=5000, description="how many at most")
    dwell_s: float = Field(default=2e-6, gt=0, description="per pixel")
    exposure_s: float = Field(default=0.05, gt=0)
    spacing_nm: float = Field(default=3.0, ge=0)
    time_budget_s: float | None = Field(default=None, gt=0)
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (128, 64)
    signals: tuple[str, ...] = ()
    places: tuple[Literal["centre", "inside"], ...] = ("inside",)
    overview_shape: tuple[int, int] | None = None
    rescan: bool = False
    nested: dict[str, int] = {}


@pytest.fixture
def form(qtbot):
    form = SettingsForm(Settings)
    qtbot.addWidget(form)
    return form


def test_the_defaults_survive_the_form(form):
    assert Settings(**form.values()) == Settings()


def test_every_kind_of_value_goes_in_and_comes_out(form):
    wanted = Settings(
        chooser="grid",
        points=1200,
        dwell_s=8.5e-6,
        exposure_s=0.2,
        spacing_nm=0.75,
        time_budget_s=90.0,
        shape=(33, 257),
        signals=("HAADF", "BF"),
        rescan=True,
        places=("centre",),
        overview_shape=(7, 9),
    )
    form.put(wanted.model_dump())
    assert Settings(**form.values()) == wanted


@pytest.mark.parametrize(
    ("name", "units"),
    [("exposure_s", "s"), ("dose_e_per_a2", "e/Å²"), ("spacing_nm", "nm"), ("points", ""), ("half_angle_mrad", "mrad")],
)
def test_units_come_from_the_name(name, units):
    assert units_of(name) == units


def test_units_and_tooltips_are_shown(form):
    assert form.editors["dwell_s"].box.text() == "2 µs"
    assert form.editors["exposure_s"].box.text() == "50 ms"
    assert form.editors["spacing_nm"].box.text() == "3 nm"
    assert form.editors["points"].toolTip() == "how many at most"


def test_limits_of_the_model_are_limits_of_the_editor(form):
    form.editors["points"].box.setValue(10**6)
    assert form.values()["points"] == 5000
    form.editors["dwell_s"].box.setValue(-1.0)
    assert form.values()["dwell_s"] > 0


def test_a_person_may_type_an_exponent(qtbot):
    box = NumberBox(units="nm")
    qtbot.addWidget(box)
    box.lineEdit().setText("1.5e-3 nm")
    box.interpretText()
    assert box.number() == pytest.approx(1.5e-3)


def test_steps_follow_the_magnitude(qtbot):
    box = NumberBox(units="s")
    qtbot.addWidget(box)
    box.set_number(0.02)
    box.stepBy(1)
    assert box.number() == pytest.approx(0.021)
    box.set_number(300)
    box.stepBy(-2)
    assert box.number() == pytest.approx(280)


def test_an_absent_budget_is_none_until_ticked(form):
    editor = form.editors["time_budget_s"]
    assert form.values()["time_budget_s"] is None
    editor.tick.setChecked(True)
    assert form.values()["time_budget_s"] > 0


def test_a_change_is_told_once(form, qtbot):
    with qtbot.waitSignal(form.changed, timeout=500):
        form.editors["points"].box.setValue(7)


def test_exchanging_the_model_leaves_no_old_editor(form):
    class Other(BaseModel):
        clusters: int = 4

    form.set_model(Other)
    assert form.values() == {"clusters": 4}
