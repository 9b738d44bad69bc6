"""A tiny instrument for alignment plans: controls, a camera, a clock, and whatever goes wrong when told to."""

from __future__ import annotations

import threading

import numpy as np

from napari_smarttem.alignment.targets.loop import LoopSettings, align, controls_of
from napari_smarttem.backends.simulator.clock import Clock
from napari_smarttem.backends.simulator.sorter import CAMERA, SorterCamera, SorterControls, SorterPart
from napari_smarttem.schema import AwaitReview, Axis, ControlInfo, Frame, Note, SetOptics, StepResult, TakeImage


class SorterBench:
    """The simulated sorter without the rest of the microscope."""

    def __init__(self, seed=0, **settings):
        self.part = SorterPart(Clock(None), seed, **settings)
        self.optics = SorterControls(self.part, None)
        self._camera = SorterCamera(self.part, None, None, 300e3)

    def now_s(self):
        return self.part.clock.now_s()

    def picture(self, exposure_s):
        return self._camera.acquire_image(exposure_s, threading.Event(), CAMERA)


class ToyOptics:
    """Any target's model as an instrument: misalignments = start + response @ controls."""

    def __init__(self, target, start, response, electrons=1e5, seed=0):
        self.target, self.start, self.response = target, np.asarray(start, float), np.asarray(response, float)
        self.electrons, self._rng, self._time = electrons, np.random.default_rng(seed), 0.0
        self.values = dict.fromkeys(target.controls, 0.0)
        self.optics = self

    @property
    def controls(self):
        return {n: ControlInfo(name=n, units="raw", minimum=-10, maximum=10, largest_step=5) for n in self.values}

    def get(self):
        return dict(self.values)

    def set(self, values):
        self.values.update(values)
        self._time += 0.1

    def now_s(self):
        return self._time

    @property
    def misalignment(self):
        return self.start + self.response @ np.array(list(self.values.values()))

    def picture(self, exposure_s):
        started, self._time = self._time, self._time + exposure_s
        counts = self._rng.poisson(self.target.picture(self.misalignment) * self.electrons).astype(float)
        axes = (Axis(name="theta_y", units="mrad"), Axis(name="theta_x", units="mrad"))
        return Frame(data=counts, axes=axes, signal="toy", metadata={"exposure_started_s": started})


def drive(target, bench, *, spoil=None, review=None, **settings):
    """Run the plan; (outcome, steps). `spoil(step, frame)` may change frames, `review(step)` answers a review."""
    checked = LoopSettings.model_validate({"controls": controls_of(bench.optics), **settings})
    plan, steps = align(target, checked), []
    try:
        step = next(plan)
        while True:
            steps.append(step)
            started, frames, outcome = bench.now_s(), (), None
            if isinstance(step, TakeImage):
                frame = bench.picture(step.exposure_s)
                frames = (frame if spoil is None else spoil(step, frame),)
            elif isinstance(step, SetOptics):
                bench.optics.set(step.values)
            elif isinstance(step, AwaitReview):
                outcome = review(step)
            result = StepResult(step=step, frames=frames, started_s=started, finished_s=bench.now_s(), review=outcome)
            step = plan.send(result)
    except StopIteration as end:
        return end.value, steps


def notes(steps):
    return {step.step_id: step for step in steps if isinstance(step, Note)}
