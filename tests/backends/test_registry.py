"""Backends are found by entry points; somebody else's broken package stays somebody else's problem."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from napari_smarttem.backends import registry
from napari_smarttem.schema import BadInput, InstrumentFault

from .toy_microscope import ToyMicroscope

HERE = "tests.backends.test_registry"


def connect_toy(*, current: float = 16.0, blanker: bool = True):
    """A toy microscope
    for tests.

    Not for people.
    """
    return ToyMicroscope(current=current, blanker=blanker)


def connect_anything(**settings):
    return ToyMicroscope(**settings)


def connect_needing(address):
    raise ConnectionRefusedError(f"nobody at {address}")


def connect_refusing():
    raise BadInput("Switch the microscope on first.")


def connect_nothing():
    return 42


def connect_lacking():
    import a_package_nobody_has  # noqa: F401


not_a_function = 3


@pytest.fixture
def installed(monkeypatch):
    def install(**values):
        points = [EntryPoint(name=k, value=v, group=registry.GROUP) for k, v in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in points if p.group == group])

    return install


def test_ours_are_listed():
    entries = registry.available()
    assert {"replay", "simulator"} <= set(entries)
    replay = entries["replay"]
    assert replay.available
    assert "recorded spectrum image" in str(replay)
    assert replay.settings[0] == "file"
    assert list(entries) == sorted(entries)


def test_a_third_party_backend_connects(installed):
    installed(toy=f"{HERE}:connect_toy")
    entry = registry.available()["toy"]
    assert entry == registry.BackendEntry("toy", True, "A toy microscope for tests.", ("current", "blanker"))
    assert registry.connect("toy", current=3.0).beam_current_pa == 3.0


def test_any_setting_passes_where_any_is_taken(installed):
    installed(toy=f"{HERE}:connect_anything")
    assert registry.connect("toy", blanker=False).blanker is None
    assert "toy" in registry.available()["toy"].description


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("a_package_nobody_has.backend:connect", "needs the package 'a_package_nobody_has'"),
        ("napari_smarttem.backends.not_there:connect", "could not be loaded"),
        (f"{HERE}:no_such_function", "broken"),
        (f"{HERE}:not_a_function", "not a function"),
    ],
)
def test_a_broken_one_is_listed_with_the_reason(installed, value, says):
    installed(broken=value, toy=f"{HERE}:connect_toy")
    entries = registry.available()
    assert entries["toy"].available
    assert not entries["broken"].available
    assert says in str(entries["broken"])
    assert str(entries["broken"]).startswith("not available: ")
    with pytest.raises(BadInput, match=says) as caught:
        registry.connect("broken")
    assert "\n" not in str(caught.value)


def test_ours_cannot_be_taken_over(monkeypatch):
    points = [
        EntryPoint("replay", "napari_smarttem.backends.replay:connect", registry.GROUP),
        EntryPoint("replay", f"{HERE}:connect_toy", registry.GROUP),
    ]
    for order in (points, points[::-1]):
        monkeypatch.setattr(registry, "entry_points", lambda group, order=order: order)
        assert "file" in registry.available()["replay"].settings


def test_an_unknown_one_is_answered_with_what_there_is(installed):
    installed(toy=f"{HERE}:connect_toy", other=f"{HERE}:connect_toy")
    with pytest.raises(BadInput, match=r"no backend 'titan'; there is other, toy\."):
        registry.connect("titan")
    installed()
    with pytest.raises(BadInput, match="none installed"):
        registry.connect("titan")
    assert registry.available() == {}


@pytest.mark.parametrize(
    ("function", "settings", "error", "says"),
    [
        ("connect_toy", {"curent": 1}, BadInput, r"no setting 'curent'; it takes current, blanker"),
        ("connect_refusing", {"x": 1}, BadInput, "it takes none"),
        ("connect_needing", {}, BadInput, "needs the setting 'address'"),
        ("connect_needing", {"address": "here"}, InstrumentFault, "could not connect: ConnectionRefusedError: nobody"),
        ("connect_refusing", {}, BadInput, "^Switch the microscope on first"),
        ("connect_nothing", {}, BadInput, "no instrument: it lacks info"),
        ("connect_lacking", {}, BadInput, "needs the package 'a_package_nobody_has'"),
    ],
)
def test_what_goes_wrong_is_one_sentence(installed, function, settings, error, says):
    installed(toy=f"{HERE}:{function}")
    with pytest.raises(error, match=says) as caught:
        registry.connect("toy", **settings)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_function_without_a_signature_speaks_for_itself(installed):
    installed(odd="builtins:type")
    assert registry.available()["odd"].available
    with pytest.raises((BadInput, InstrumentFault)):
        registry.connect("odd")
