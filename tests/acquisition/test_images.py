"""Images of single points at high magnification, before their spectra."""

from __future__ import annotations

import pytest

from napari_smarttem.acquisition.estimate import estimate, image_scan
from napari_smarttem.acquisition.plan import build
from napari_smarttem.acquisition.settings import parse
from napari_smarttem.schema import Acquire, Note, Scan

from .microscope import FakeMicroscope, context

BASE = {
    "overview_shape": [32, 32], "chooser": "grid", "points": 9, "exposure_s": 0.05, "drift_every": 0,
    "image_nm": 10.0, "image_pixels": 16,
}  # fmt: skip


def run(microscope=None, **settings):
    microscope = microscope or FakeMicroscope()
    return microscope.run(build(BASE | settings, microscope.context))


def images(results):
    return [one for one in results if isinstance(one.step, Scan) and one.step.purpose == "image"]


def test_each_point_is_imaged_just_before_its_spectrum():
    results = run()
    spectra = [one for one in results if isinstance(one.step, Acquire)]
    assert len(images(results)) == len(spectra) == 9
    for image, spectrum in zip(images(results), spectra, strict=True):
        field = image.step.field
        assert results.index(spectrum) == results.index(image) + 1
        assert field.contains(spectrum.step.y_nm, spectrum.step.x_nm)
        assert (field.height_nm, field.width_nm) == (10.0, 10.0)
        assert image.step.shape == (16, 16)


@pytest.mark.parametrize("place", [(0.0, 0.0), (128.0, 3.0), (64.0, 128.0)])
def test_an_image_at_the_rim_is_moved_into_the_field_and_a_large_one_is_the_field(place):
    whole = context().field
    for side in (10.0, 1000.0):
        field = image_scan("image", place, parse(BASE | {"image_nm": side}), context(), ()).field
        assert whole.contains(field.y_nm, field.x_nm)
        assert whole.contains(field.y_nm + field.height_nm, field.x_nm + field.width_nm)
        assert field.contains(*place)
        assert field.height_nm == min(side, 128.0)


def test_the_estimate_and_the_budgets_count_the_images():
    with_images, without = (estimate(9, parse(BASE | {"image_nm": side}), context()) for side in (10.0, None))
    assert with_images.steps == 2 * without.steps
    assert with_images.dose_e_per_a2 > without.dose_e_per_a2
    costly = {"image_dwell_s": 1e-3, "time_budget_s": 1.0}
    measured = [one for one in run(**costly) if isinstance(one.step, Acquire)]
    one_point_s = 0.05 + 16 * 16 * 1e-3
    assert 0 < len(measured) <= 1.0 / one_point_s
    assert len([one for one in run(**costly, image_nm=None) if isinstance(one.step, Acquire)]) == 9


def test_an_image_that_fails_is_said_and_the_spectrum_is_recorded_all_the_same():
    microscope = FakeMicroscope(fails=lambda step: "no scan came" if getattr(step, "purpose", "") == "image" else "")
    results = run(microscope)
    assert sum(isinstance(one.step, Acquire) for one in results) == 9
    said = [one.step.text for one in results if isinstance(one.step, Note) and "could not be recorded" in one.step.text]
    assert len(said) == 9
