"""Runs on an instrument that takes no time, with plans written for the test at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from napari_smarttem.bench.parts.instant import InstantInstrument
from napari_smarttem.engine import session as session_module
from napari_smarttem.engine.session import Session
from napari_smarttem.schema import Acquire, AwaitReview, Note, PlanContext, PlanEstimate, PlanSpec, Scan, Target


def measure_plan(settings: dict, _context: PlanContext):
    """Overview, review, then the approved targets: the shape of every acquisition."""
    count = int(settings.get("points", 10))
    exposure_s = float(settings.get("exposure_s", 1e-3))
    yield Scan(step_id="overview-0", shape=(8, 8), dwell_s=1e-6)
    targets = tuple(
        Target(target_id=f"r0-{i:04d}", y_nm=i % 100, x_nm=7 * i % 100, score=(i % 10) / 10) for i in range(count)
    )
    answer = yield AwaitReview(step_id="review-0", targets=targets, prompt="Which of these?")
    approved = answer.review.approved
    yield Note(
        step_id="go",
        text=f"{len(approved)} points",
        estimate=PlanEstimate(steps=len(approved), duration_s=1.0, dose_e_per_a2=1.0),
    )
    for target in approved:
        yield Acquire(
            step_id=target.target_id,
            target_id=target.target_id,
            y_nm=target.y_nm,
            x_nm=target.x_nm,
            exposure_s=exposure_s,
        )


@pytest.fixture
def plans(monkeypatch) -> dict[str, Callable]:
    """Plans by kind; a test adds its own."""
    known: dict[str, Callable] = {"measure": measure_plan}
    monkeypatch.setattr(
        session_module, "build_plan", lambda spec, context: known[spec.kind](dict(spec.settings), context)
    )
    return known


@pytest.fixture
def instrument() -> InstantInstrument:
    return InstantInstrument(channels=32)


@pytest.fixture
def session(tmp_path, plans, instrument) -> Iterator[Session]:
    with Session(tmp_path / "runs") as session:
        session.use(instrument)
        yield session


@pytest.fixture
def measure() -> Callable[..., PlanSpec]:
    return lambda **settings: PlanSpec(kind="measure", settings=settings)
