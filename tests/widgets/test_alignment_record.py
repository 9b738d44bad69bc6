"""What the record of alignments takes from the notes of runs, whoever wrote them; and the form of a misaligned simulator."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytestmark = pytest.mark.gui

from napari_smarttem.alignment.estimator import Measurement  # noqa: E402
from napari_smarttem.alignment.reading import Reading  # noqa: E402
from napari_smarttem.alignment.targets.loop import Outcome as TargetOutcome  # noqa: E402
from napari_smarttem.backends.registry import available, connect  # noqa: E402
from napari_smarttem.physics.aberrations import ESTIMATED  # noqa: E402
from napari_smarttem.physics.ronchigram import Geometry  # noqa: E402
from napari_smarttem.schema import Note  # noqa: E402
from napari_smarttem.widgets.alignment_record import last_words, reading_of, response_of  # noqa: E402
from napari_smarttem.widgets.alignment_tables import said_number  # noqa: E402

VALUES = np.array([-600.0, 2.0, -1.0, 30.0, 5.0, -40.0, 3.0, 1.5])
SIGMA = np.array([0.5, 0.2, 0.2, 4.0, 4.0, 9.0, 9.0, 0.8])


def measurement(verdict="good"):
    return Measurement(VALUES, np.diag(SIGMA**2), Geometry(300e3, 30.0, 256), verdict)


def test_a_measurement_of_the_loop_is_a_reading_with_limits_and_angles():
    found = reading_of(measurement().as_dict())
    assert found.good
    assert found.names == ESTIMATED
    assert found.values == pytest.approx(VALUES)
    assert found.sigma == pytest.approx(SIGMA)
    assert found.tolerance[0] == pytest.approx(0.787, abs=0.001)
    assert found.figures["corrected_mrad_16"] <= found.figures["corrected_mrad"] <= found.figures["corrected_mrad_84"]


def test_a_measurement_that_is_none_gives_its_reason_and_no_numbers():
    found = reading_of(measurement("the frame is dark").as_dict())
    assert not found.good
    assert found.values == ()
    assert "dark" in found.words()


def test_the_note_of_a_target_is_a_reading():
    data = {
        "parameters": {"df": 0.5, "SM": -0.01},
        "sigma": {"df": 0.1, "SM": 0.002},
        "merit": 0.9,
        "explained": 0.99,
        "trusted": True,
    }
    found = reading_of(data)
    assert found.as_mapping() == {"df": 0.5, "SM": -0.01}
    assert found.figures["merit"] == 0.9
    assert not reading_of(data | {"trusted": False, "explained": 0.4}).good


def test_the_end_of_a_loop_is_no_reading():
    ends = TargetOutcome(
        verdict="aligned", frames=3, parameters={"df": 0.0}, sigma={"df": 0.1}, merit=0.99, response=[[1.0]]
    )
    assert reading_of(ends.model_dump()) is None
    ronchigram = {
        "verdict": "aligned",
        "frames": 4,
        "aberrations": dict.fromkeys(ESTIMATED, 0.0),
        "sigma": dict(zip(ESTIMATED, map(float, SIGMA), strict=True)),
        "quarter_pi_mrad": 60.0,
        "controls": {},
        "response": np.eye(8).tolist(),
    }
    assert reading_of(ronchigram) is None
    words = last_words(Note(step_id="end", text="x", data=ronchigram), 300e3)
    assert "Aligned after 4" in words
    assert "60" not in words  # the angle of the mean belief says nothing of what is left


def test_both_ways_to_write_a_response_are_understood():
    entry_names = {"parameters": ["df", "SM"]}
    matrix = {"controls": ["a", "b"], "response": [[1.0, 2.0], [3.0, 4.0]], **entry_names}
    expected = {"a": {"df": 1.0, "SM": 3.0}, "b": {"df": 2.0, "SM": 4.0}}
    assert response_of(matrix, None) == expected
    assert response_of({"response": expected}, None) == expected
    assert response_of({"response": [[1.0]], "controls": ["a", "b"], **entry_names}, None) == {}


def test_a_reading_survives_the_journal():
    found = reading_of(measurement().as_dict())
    assert Reading.model_validate(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("value", "sigma", "words"),
    [(-1694.66, 0.65, "-1694.66"), (23.82, 0.68, "23.82"), (943.7, 13.0, "944"), (0.06843, 0.00082, "0.06843")],
)
def test_numbers_are_written_to_two_digits_of_their_error(value, sigma, words):
    assert said_number(value, sigma) == words


@pytest.mark.parametrize(
    "optics", ["aligned", "misaligned", "misaligned, with OAM sorter", "aligned, with phase plate"]
)
def test_the_form_connects_to_a_column_with_something_to_align(qtbot, optics):
    from napari_smarttem.widgets.backend_form import BackendForm

    form = BackendForm()
    qtbot.addWidget(form)
    form.show_backend("simulator", available()["simulator"].settings)
    form.show_settings({"optics": optics, "speed": None})
    made = connect("simulator", **(form.settings() | {"speed": None}))
    assert (made.settings.misalignment > 0) is optics.startswith("misaligned")
    assert made.settings.phase_plate is ("phase plate" in optics)
    assert made.settings.sorter is ("sorter" in optics)
    form.show_settings(dict(made.info.settings))
    assert form.settings()["seed"] == made.settings.seed
    assert form.settings().get("misalignment", 0.0) == made.settings.misalignment
