"""The run as a plan, on the simulated phase plate, through the session: journal, resume, and what can go wrong."""

from pathlib import Path

import numpy as np
import pytest

from napari_smarttem.backends.registry import connect
from napari_smarttem.engine.journal import Journal
from napari_smarttem.engine.session import Session
from napari_smarttem.physics.caustics import record
from napari_smarttem.physics.caustics_basis import coefficients
from napari_smarttem.schema import BadInput, Note, PlanContext, PlanSpec
from napari_smarttem.single_pixel.plan import build
from napari_smarttem.single_pixel.predict import Decoder

STILL = {"drift_nm_per_s": (0.0, 0.0), "drift_walk_nm": 0.0, "contamination": False}
SETTINGS = {"pixels": 16, "patterns": 64, "batch": 16, "pool": 200, "check_every": 2, "check_patterns": 4}


@pytest.fixture(scope="module")
def decoder_file(tmp_path_factory):
    """The decoder of the simulator's own plate (seed 3), as a perfect calibration would find it."""
    instrument = connect("simulator", seed=3, speed=None, phase_plate=True)
    caustics = instrument.phase_plate.caustics
    instrument.close()
    o = caustics.optics
    values = np.array([0.0, np.log(o.source_px), o.stretch, o.shear, o.barrel, o.falloff])
    file = tmp_path_factory.mktemp("plate") / "plate.npz"
    Decoder(coefficients(caustics.plate, o), values, error=0.01).save(file)
    return file


class Watched:
    """A session with a phase plate, and the notes of its runs."""

    def __init__(self, folder: Path, **settings):
        self.session = Session(folder, sync=False)
        self.session.connect(
            "simulator", **{"seed": 3, "speed": None, "phase_plate": True, **STILL, **settings}
        ).result()
        self.plate = self.session.instrument.unwrapped.phase_plate
        self.notes: dict[str, Note] = {}
        self.session.step_finished.connect(self._heard)

    def _heard(self, result):
        if isinstance(result.step, Note):
            self.notes[result.step.step_id] = result.step

    def run(self, decoder_file, policy="approve_all", **settings):
        spec = PlanSpec(kind="single_pixel", settings={**SETTINGS, "calibration_file": str(decoder_file), **settings})
        folder = self.session.start(spec, policy=policy)
        assert self.session.wait(100)
        return folder

    def pictures(self):
        return [np.array(n.data["picture"]) for k, n in sorted(self.notes.items()) if k.startswith("picture")]

    def truth(self):
        return self.plate.transmission(0.0).reshape(16, 4, 16, 4).mean(axis=(1, 3))

    def said(self):
        return " ".join(note.text for note in self.notes.values())


@pytest.fixture
def watched(tmp_path):
    made = []

    def make(**settings):
        made.append(Watched(tmp_path / str(len(made)), **settings))
        return made[-1]

    yield make
    for one in made:
        one.session.close()


def test_a_run_gives_a_picture_that_gets_better(watched, decoder_file):
    one = watched()
    truth = one.truth()
    one.run(decoder_file, patterns=96)
    assert one.session.status.outcome == "finished"
    pictures = one.pictures()
    errors = [np.linalg.norm(p - truth) / np.linalg.norm(truth) for p in pictures]
    flat = np.linalg.norm(truth.mean() - truth) / np.linalg.norm(truth)
    assert len(pictures) == 6
    assert errors[-1] < errors[0]
    assert errors[-1] < 0.6 * flat
    assert "as predicted" in one.notes["check-0-note"].text
    last = one.notes["picture-0005"].data
    assert last["patterns"] == 96
    assert last["pixel_nm"] == pytest.approx(6.25)
    # the dose by pixel that the plan books is the dose the specimen saw, less the patterns' cut edges
    booked = np.array(last["dose_e_per_a2"]).sum() * (last["pixel_nm"] * 10) ** 2
    assert booked == pytest.approx(one.session.instrument.unwrapped.column.dose.electrons, rel=0.03)


def test_a_stopped_run_resumes_with_the_same_posterior(watched, decoder_file):
    whole = watched()
    whole.run(decoder_file)
    stopped = watched()

    def stop(result):
        if result.step.step_id.startswith("b0002") and not result.replayed:
            stopped.session.stop("for the test")

    stopped.session.step_finished.connect(stop)
    folder = stopped.run(decoder_file)
    assert stopped.session.status.outcome == "stopped"
    before = stopped.pictures()
    assert len(before) == 2
    stopped.session.step_finished.disconnect(stop)
    stopped.notes.clear()
    stopped.session.resume(folder)
    assert stopped.session.wait(100)
    assert stopped.session.status.outcome == "finished"
    after = stopped.pictures()
    for old, new in zip(before, after, strict=False):
        np.testing.assert_array_equal(old, new)
    journal = Journal.open(folder, read_only=True)
    chosen = [s for s in journal.steps if s.startswith("b0") and not s.endswith("-set")]
    journal.close()
    assert len(chosen) == len(set(chosen)) == 64


def test_a_needle_that_stops_responding_is_named(watched, decoder_file):
    one = watched()
    one.plate.break_needle(2, -1.0)
    one.run(decoder_file, patterns=32)
    assert "Needle 3 does not respond" in one.said()
    assert one.session.status.outcome == "finished"


def test_charging_is_followed(watched, decoder_file):
    one = watched()
    one.plate.charge(0.2 * np.array([1, -1, 1, 1, -1, 1, -1, 1]))
    one.run(decoder_file, patterns=32)
    assert "The plate has charged" in one.notes["check-0-note"].text


def test_a_saturated_detector_is_said_and_the_exposure_shortened(watched, decoder_file):
    one = watched()
    one.run(decoder_file, patterns=48, exposure_s=0.05)
    assert "saturates" in one.said()
    assert one.pictures()


@pytest.mark.slow
def test_patterns_above_the_dose_limit_are_put_before_a_person(watched, decoder_file):
    free, kept = watched(), watched()
    free.run(decoder_file, patterns=48)
    limit = 0.5 * float(np.max(free.notes["picture-0002"].data["dose_e_per_a2"]))
    kept.run(decoder_file, policy="approve_above:1.0", patterns=48, pixel_dose_limit_e_per_a2=limit)
    last = max(k for k in kept.notes if k.startswith("picture"))
    assert np.max(kept.notes[last].data["dose_e_per_a2"]) <= limit * 1.001


def test_an_empty_pool_and_a_dose_budget_end_the_run(watched, decoder_file):
    small = watched()
    small.run(decoder_file, pool=24)
    assert "no pattern is left in the pool" in small.notes["end"].text
    poor = watched()
    poor.run(decoder_file, dose_budget_e_per_a2=0.05)
    assert "budget" in poor.notes["end"].text


def test_fading_is_taken_into_account(watched, decoder_file):
    found = {}
    for name, more in {
        "as ever": {},
        "hardly fades": {"critical_dose_e_per_a2": 1e9},
        "fades": {"critical_dose_e_per_a2": 0.1},
    }.items():
        one = watched()
        one.run(decoder_file, patterns=32, check_every=0, **more)
        assert one.session.status.outcome == "finished"
        found[name] = np.array(one.notes["picture-0001"].data["picture"])
    np.testing.assert_allclose(found["hardly fades"], found["as ever"], atol=1e-3)
    # the same signals from a specimen that has faded mean that more was there before
    assert found["fades"].mean() < found["as ever"].mean() - 0.02


def test_noise_of_the_bucket_is_not_blamed_on_the_patterns_where_it_is_known(watched, decoder_file):
    scatter = {}
    for told in (0.0, 300.0):
        one = watched()
        one.plate.read_noise_e = 300.0
        one.run(decoder_file, patterns=96, check_every=0, rule="random", bucket_noise_e=told)
        scatter[told] = one.notes["picture-0005"].data["misfit"]
    assert scatter[300.0] < 1.25 < scatter[0.0]


@pytest.mark.parametrize(("patterns", "every"), [(80, 2), (56, 3)])
def test_as_many_steps_are_foreseen_as_are_taken(watched, decoder_file, patterns, every):
    one = watched()
    foreseen = []
    one.session.status_changed.connect(lambda status: foreseen.append((status.steps_done, status.steps_total)))
    one.run(decoder_file, patterns=patterns, check_every=every, check_patterns=3)
    assert all(total is None or done <= total for done, total in foreseen)
    assert one.session.status.steps_done == one.session.status.steps_total


def test_defocus_is_used_only_where_it_may_be(watched, decoder_file):
    moved = set()
    for limit in (0.0, 10.0):
        one = watched()
        one.session.step_finished.connect(
            lambda result, limit=limit: (
                moved.add((limit, result.step.values.get("pattern_defocus")))
                if result.step.kind == "set_optics" and result.step.step_id.startswith("b0")
                else None
            )
        )
        one.run(decoder_file, patterns=16, defocus_rad=limit)
        assert one.session.status.outcome == "finished"
    assert {value for limit, value in moved if limit == 0.0} == {None}
    used = [value for limit, value in moved if limit == 10.0]
    assert len(used) > 8  # some stand at the limit
    assert np.abs(used).max() <= 10.0


def test_an_instrument_without_a_plate_is_named(watched, decoder_file):
    one = watched(phase_plate=False)
    one.run(decoder_file)
    assert one.session.status.outcome == "failed"
    assert "needle.1" in one.session.status.reason


def test_settings_are_checked_at_once(decoder_file):
    instrument = connect("simulator", seed=3, speed=None, phase_plate=True)
    context = instrument.plan_context()
    instrument.close()
    with pytest.raises(BadInput, match="pixels"):
        build({"pixels": 48}, context)
    with pytest.raises(BadInput, match="beam current"):
        build({}, PlanContext(field=context.field))
    with pytest.raises(BadInput, match="calibrate anew"):
        build({"calibration_file": "nowhere.npz"}, context)


def test_the_bucket_counts_what_the_specimen_lets_through():
    instrument = connect("simulator", seed=3, speed=None, phase_plate=True, **STILL)
    plate = instrument.phase_plate
    pattern = plate.illumination()
    frames = [plate.record("bucket", 1e-4, 0.0) for _ in range(20)]
    counts = np.mean([float(f.data.sum()) for f in frames])
    expected = (pattern * plate.transmission(0.0)).sum() * instrument.column.electrons_per_s * 1e-4
    assert counts == pytest.approx(expected, rel=0.02)
    seen = plate.record("pattern", 1e-2, 0.0).data
    assert np.corrcoef(np.ravel(seen), record(pattern[None], 1e9, np.random.default_rng(0)).ravel())[0, 1] > 0.99
    instrument.close()


def test_a_fragile_specimen_fades_under_the_patterns():
    instrument = connect("simulator", specimen="polymer", seed=3, speed=None, phase_plate=True, **STILL)
    plate = instrument.phase_plate
    before = plate.transmission(0.0)
    pattern = plate.illumination()
    for _ in range(5):
        plate.record("bucket", 1.0, 0.0)
    gained = plate.transmission(0.0) - before
    assert gained[pattern > 0.5 * pattern.max()].mean() > 10 * max(gained[pattern < 1e-4 * pattern.max()].mean(), 1e-9)
    instrument.close()
