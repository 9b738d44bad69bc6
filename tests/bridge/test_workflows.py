"""Alignment and unmixing from end to end through a real socket: GMS, its camera and its corrector before one simulated column."""

from __future__ import annotations

import numpy as np
import pytest

from napari_smarttem.alignment.targets.loop import controls_of
from napari_smarttem.backends.digitalmicrograph.ceos import CeosOptics
from napari_smarttem.backends.digitalmicrograph.fake_gms import run
from napari_smarttem.engine.history import measured_steps
from napari_smarttem.engine.journal import Journal
from napari_smarttem.engine.session import Session
from napari_smarttem.engine.verify import verify
from napari_smarttem.physics.aberrations import quarter_pi_angle_mrad
from napari_smarttem.schema import Field2D, PlanSpec, TakeImage
from napari_smarttem.unmixing import unmix

from .conftest import TOKEN

COLUMN = {"seed": 100, "high_tension_v": 300e3, "misalignment": 1.0, "optics_imperfection": 1.0, "ronchigrams": True}
CAMERA = {"camera_mrad_per_pixel": 60 / 512, "camera_binning": 4, "overview_pixels": 64}


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


def connected(session, running):
    session.connect(
        "digitalmicrograph", address=running.address, token=TOKEN, corrector=running.corrector.address, **CAMERA
    ).result()
    return session.instrument


def quality(running):
    column = running.gms.world.microscope.column
    return quarter_pi_angle_mrad(column.true_aberrations(column.clock.now_s()), 300e3)


def left_clean(running):
    assert running.gms.world.blanked
    assert running.gms.digiscan.beam == running.gms.digiscan.safe
    assert running.gms.violations == []


def test_the_alignment_makes_the_probe_better(tmp_path, torch):
    with run(speed=None, token=TOKEN, **COLUMN) as running, Session(tmp_path) as session:
        instrument = connected(session, running)
        assert set(instrument.info.capabilities) == {"scanner", "camera", "optics", "stage", "blanker"}
        before = quality(running)
        settings = {"controls": controls_of(instrument.optics), "model": None}
        folder = session.start(PlanSpec(kind="alignment", settings=settings), policy="approve_all")
        session.wait()
        assert session.status.outcome == "finished", session.status.reason
        after = quality(running)
        assert before < 4.0
        assert after > 5 * before  # how good it gets is the alignment's own matter, and tested there
        corrections = [params for method, params in running.corrector.calls if method == "correctAberration"]
        assert len(corrections) > 8
        left_clean(running)
    assert verify(folder).ok
    assert running.gms.leaks() == {"images": 0, "parameters": 0, "tags": 0}


def test_a_stopped_alignment_leaves_the_optics_as_they_were(tmp_path, torch):
    with run(speed=None, token=TOKEN, **COLUMN) as running, Session(tmp_path) as session:
        instrument = connected(session, running)
        column = running.gms.world.microscope.optics
        before, asked, images = column.get(), instrument.optics.get(), []

        def stop(result):
            if isinstance(result.step, TakeImage):
                images.append(column.get())
                if len(images) == 2:
                    session.stop()

        session.step_finished.connect(stop)
        settings = {"controls": controls_of(instrument.optics), "model": None}
        session.start(PlanSpec(kind="alignment", settings=settings), policy="approve_all")
        session.wait()
        assert session.status.outcome == "stopped"
        assert max(abs(images[1][name] - before[name]) for name in before) > 100  # it had been moved
        assert instrument.optics.get() == pytest.approx(asked, abs=1e-9)
        assert column.get() == pytest.approx(before, abs=1e-6)
        left_clean(running)


def test_the_correctors_own_tableau_agrees_with_our_estimate(tmp_path, torch):
    """Two independent measurements of one column: theirs by a tilt series, ours from one Ronchigram through GMS's camera."""
    from napari_smarttem.alignment.estimator import Estimator

    with run(speed=None, token=TOKEN, **COLUMN) as running, Session(tmp_path) as session:
        instrument = connected(session, running)
        corrector = instrument.unwrapped.optics
        assert isinstance(corrector, CeosOptics)
        for wanted in (-900.0, -1500.0):  # in steps that need nobody's yes
            instrument.optics.set({"C1": wanted})
        instrument.blanker.set_blanked(False)
        frame = instrument.camera.acquire_image(0.2, _Never())
        ours = Estimator(None).measure(
            np.asarray(frame.data), high_tension_v=frame.metadata["high_tension_v"], half_angle_mrad=30.0,
            expected_c1_nm=-1500.0,
        )  # fmt: skip
        theirs = corrector.measure("Standard", 34.0)
        assert ours.good, ours.verdict
        errors = {"C1": 2.0, "A1": 2.0, "A2": 20.0, "B2": 20.0, "C3": 1.0}
        for name, value, sigma in zip(ours.names, ours.coefficients, ours.sigma, strict=True):
            assert abs(value - theirs[name]) < 5 * np.hypot(sigma, errors[name.partition(".")[0]]), name


class _Never:
    def is_set(self):
        return False

    def wait(self, timeout=None):
        return False


def of_run(folder):
    """Spectra (count, energy) and places (count, 2) of a finished run, from its journal."""
    with Journal.open(folder, read_only=True) as journal:
        steps = measured_steps(journal)
        spectra = np.stack([np.asarray(journal.load(step.frames[0]).data) for step in steps])
    return spectra, np.array([(one.step.y_nm, one.step.x_nm) for one in steps])


def maps_agree(result, truth, places):
    """How well the best map follows the thickness of each phase; the support is as thick everywhere, and no map of it can."""
    rows, columns = (
        np.clip(np.rint((p - o) / s).astype(int), 0, n - 1)
        for p, (o, s, n) in zip(places.T, truth["axes"], strict=True)
    )
    found = result.maps.reshape(len(result.maps), -1)
    best = {}
    for name, thickness in truth["phases"].items():
        here = thickness[rows, columns]
        if here.std() < 0.2 * here.mean():
            continue
        best[name] = max(abs(np.corrcoef(here, one)[0, 1]) for one in found)
    assert len(best) == 2
    return best


def truth_of(running, pixels=400):
    """Thickness of each phase over the field that GMS scans."""
    world = running.gms.world
    field = Field2D(y_nm=0.0, x_nm=0.0, height_nm=world.field_nm, width_nm=world.field_nm)
    truth = world.microscope.ground_truth(field, (pixels, pixels))
    step = world.field_nm / pixels
    return {"axes": ((step / 2, step, pixels),) * 2, "phases": dict(zip(truth.phases, truth.phase_nm, strict=True))}


@pytest.mark.parametrize("way", ["run", "batch"])
def test_spectra_through_the_bridge_unmix_into_the_phases_there_are(tmp_path, way):
    with run(speed=None, seed=3, token=TOKEN, drift_nm_per_s=(0.0, 0.0)) as running, Session(tmp_path) as session:
        session.connect("digitalmicrograph", address=running.address, token=TOKEN, beam_current_pa=200.0).result()
        session.instrument.spectrometer.set_energy_offset_ev(250.0)  # the edges of carbon, titanium, oxygen and copper
        if way == "run":
            settings = {
                "chooser": "grid", "points": 144, "exposure_s": 0.5, "drift_every": 0, "overview_shape": [128, 128],
            }  # fmt: skip
            folder = session.start(PlanSpec(kind="acquisition", settings=settings), policy="approve_all")
            session.wait()
            assert session.status.outcome == "finished", session.status.reason
            assert verify(folder).ok
            spectra, places = of_run(folder)
        else:
            at = np.linspace(6.0, 194.0, 15)
            places = np.array([(y, x) for y in at for x in at])
            frames = list(session.instrument.visit(places.tolist(), 0.5))
            assert session.instrument.dose_e_per_a2 > session.instrument.dose_of(0.5 * len(places))
            spectra = np.stack([frame.data for frame in frames])
        truth = truth_of(running)
        left_clean(running)
    assert len(spectra) == len(places) >= 140
    best = maps_agree(unmix(spectra, method="minimum-volume", components=3), truth, places)
    assert min(best.values()) > 0.97, best
