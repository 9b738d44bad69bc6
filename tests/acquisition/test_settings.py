import json

import pytest

from napari_smarttem.acquisition.choosers import choosers
from napari_smarttem.acquisition.settings import AcquisitionSettings, merged, parse
from napari_smarttem.schema import BadInput

from .microscope import context


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"points": 0}, "points"),
        ({"exposure_s": float("nan")}, "exposure_s"),
        ({"chooser": "magic"}, "choose one of edges"),
        ({"pionts": 3}, "no setting 'pionts'"),
        ({"chooser": "edges", "chooser_settings": {"clusters": 3}}, "'edges' has no setting 'clusters'"),
        ({"chooser": "clusters", "chooser_settings": {"clusters": 1}}, "clusters cannot be 1"),
        ({"chooser": "anomalies", "chooser_settings": {"patch_px": 6}}, "it must be odd, such as 7"),
        ({"exposure_s": 2.0, "time_budget_s": 1.0}, "time budget of 1 s is shorter"),
        ({"dose_budget_e_per_a2": 0}, "dose_budget_e_per_a2"),
        ({"overview_shape": [0, 5]}, "overview_shape"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_sentence(settings, words):
    with pytest.raises(BadInput) as error:
        parse(settings)
    assert words in str(error.value)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("chooser", sorted(choosers()))
def test_settings_survive_json_with_the_choosers_own_written_out(chooser):
    settings = parse({"chooser": chooser, "points": 7})
    again = parse(json.loads(settings.model_dump_json()))
    assert again == settings
    assert set(settings.chooser_settings) == set(choosers()[chooser].options.model_fields)


def test_another_chooser_starts_from_its_own_defaults_and_rescan_is_asked_for_once():
    settings = parse({"chooser": "clusters", "chooser_settings": {"clusters": 7}})
    assert merged(settings, {"points": 5}).chooser_settings["clusters"] == 7
    other = merged(settings, {"chooser": "edges", "rescan": True})
    assert other.rescan
    assert "clusters" not in other.chooser_settings
    assert not merged(other, {}).rescan


def test_the_overview_has_the_recordings_pixels_unless_asked_otherwise():
    assert AcquisitionSettings().scan_shape(context()) == (256, 256)
    assert AcquisitionSettings().scan_shape(context(native_shape=(40, 30))) == (40, 30)
    assert AcquisitionSettings(overview_shape=(64, 32)).scan_shape(context(native_shape=(40, 30))) == (64, 32)
