"""The worked example of a two-parameter biprism aligns, as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from napari_smarttem.schema import TakeImage

from .toy_optics import ToyOptics, drive, notes

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/add-an-alignment-target.md"


@pytest.fixture(scope="module")
def room():
    names: dict[str, object] = {"__name__": "example"}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        exec(compile(code, PAGE.name, "exec"), names)
    return names


RESPONSE = np.array([[0.03, 0.004], [-0.002, 0.015]])


@pytest.mark.parametrize("start", [(0.12, -0.08), (-0.1, 0.05), (-0.14, -0.09)])
def test_biprism_learns_its_controls_and_aligns(room, start):
    target = room["target"]()
    toy = ToyOptics(target, start, RESPONSE)
    outcome, steps = drive(target, toy)
    assert outcome.verdict == "aligned"
    assert target.merit(toy.misalignment) > 0.97
    assert np.allclose(outcome.response, RESPONSE, atol=0.15 * np.abs(RESPONSE).max())
    assert np.array(notes(steps)["response"].data["response"]).shape == (2, 2)


def test_with_the_learned_response_it_needs_two_or_three_pictures(room):
    target = room["target"]()
    toy = ToyOptics(target, (0.1, 0.06), RESPONSE)
    outcome, steps = drive(target, toy, response=(RESPONSE * 1.05).tolist())
    assert outcome.verdict == "aligned"
    assert len([step for step in steps if isinstance(step, TakeImage)]) <= 3


def test_default_derivatives_are_those_of_the_picture(room):
    target = room["target"]()
    at = np.array([0.05, -0.03])
    _, slopes = target.picture_and_slopes(at)
    for k in range(2):
        change = np.zeros(2)
        change[k] = 1e-5
        numeric = (target.picture(at + change) - target.picture(at - change)) / 2e-5
        assert np.allclose(numeric, slopes[k], atol=1e-3 * np.abs(slopes[k]).max())


def test_settings_of_the_page(room):
    toy = ToyOptics(room["target"](), (0.0, 0.0), RESPONSE)
    settings = room["plan_settings"](toy)
    assert settings["controls"]["biprism voltage"] == {"value": 0.0, "minimum": -10, "maximum": 10, "largest_step": 5}
