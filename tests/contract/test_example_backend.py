"""The worked example of a backend, a package of its own: small, found by its entry point, and true to the contract."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from napari_smarttem.backends import registry
from napari_smarttem.engine.session import Session
from napari_smarttem.schema import PlanSpec

from .suite import ContractSuite

EXAMPLE = Path(__file__).resolve().parents[2] / "docs/examples/smarttem-box-microscope"


@pytest.fixture(scope="class")
def installed():
    """As if the package had been installed: its entry point is the one its pyproject.toml declares."""
    declared = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    points = [EntryPoint(name, value, registry.GROUP) for name, value in declared[registry.GROUP].items()]
    found = registry.entry_points
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", lambda group: [*found(group=group), *points])
        patch.syspath_prepend(str(EXAMPLE / "src"))
        yield
    sys.modules.pop("smarttem_box_microscope", None)


@pytest.fixture(scope="class")
def box(installed):
    instrument = registry.connect("box")
    yield instrument
    instrument.close()


class TestBoxMicroscope(ContractSuite):
    @pytest.fixture
    def instrument(self, box):
        return box

    def test_it_is_short_and_listed(self, installed):
        (source,) = (EXAMPLE / "src").glob("*.py")
        assert len(source.read_text(encoding="utf-8").splitlines()) < 100
        entry = registry.available()["box"]
        assert entry.available
        assert entry.description.startswith("A made-up microscope")

    def test_it_does_the_main_job(self, installed, tmp_path):
        with Session(tmp_path) as session:
            session.connect("box", seed=1).result()
            settings = {
                "chooser": "edges",
                "points": 6,
                "exposure_s": 0.001,
                "drift_every": 0,
                "overview_dwell_s": 1e-7,
            }
            session.start(PlanSpec(kind="acquisition", settings=settings), policy="approve_all")
            session.wait()
            assert session.status.outcome == "finished", session.status.reason
