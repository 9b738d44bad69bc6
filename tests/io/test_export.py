"""A run as files: every spectrum at its place, drift taken off, nothing averaged away, verdicts told."""

from __future__ import annotations

import csv
import itertools
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_smarttem.engine.export import assemble, export_run
from napari_smarttem.engine.history import judged_targets, overview_frames, target_rows
from napari_smarttem.engine.journal import Journal
from napari_smarttem.io import read
from napari_smarttem.schema import (
    Acquire,
    AwaitReview,
    BadInput,
    Decision,
    Field2D,
    InstrumentInfo,
    JudgedTarget,
    PlanContext,
    PlanSpec,
    Proposal,
    ReviewOutcome,
    RunStart,
    RunStop,
    Scan,
    StepResult,
    Target,
    TargetState,
    image_frame,
    spectrum_frame,
)

PIXEL_NM, ROWS, COLUMNS, CHANNELS = 2.0, 10, 12, 16
FIELD = Field2D(y_nm=100.0, x_nm=50.0, height_nm=ROWS * PIXEL_NM, width_nm=COLUMNS * PIXEL_NM)


def centre(row, column):
    """Centre of an overview pixel in nm."""
    return FIELD.y_nm + (row + 0.5) * PIXEL_NM, FIELD.x_nm + (column + 0.5) * PIXEL_NM


def spectrum(number, offset_ev=400.0):
    counts = np.arange(CHANNELS, dtype=np.uint16) + np.uint16(100 * number)
    metadata = {"simulated": True, "exposure_s": 0.1, "exposure_started_s": float(number)}
    return spectrum_frame(counts, dispersion_ev=0.5, offset_ev=offset_ev, signal="EELS", metadata=metadata)


def make_run(path, pixels, *, drift=(0.6, -0.4), overview=True, rejected=(), failed=(), stop=True):
    """A run folder whose target number i stands on `pixels[i]`."""
    info = InstrumentInfo(backend="simulator", name="twin", simulated=True, high_tension_v=200e3)
    context = PlanContext(field=FIELD, signals=("HAADF",), beam_current_pa=50.0)
    start = RunStart(run_id="run-1", plan=PlanSpec(kind="acquisition"), context=context, instrument=info)
    with Journal.create(path, start, sync=False) as journal:
        if overview:
            image = np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)
            origin = (FIELD.y_nm + PIXEL_NM / 2, FIELD.x_nm + PIXEL_NM / 2)
            frame = image_frame(
                image, pixel_nm=PIXEL_NM, origin_nm=origin, signal="HAADF", metadata={"simulated": True}
            )
            step = Scan(step_id="overview-0", shape=(ROWS, COLUMNS), dwell_s=1e-5)
            journal.write_result(StepResult(step=step, frames=(frame,)))
        targets = tuple(
            Target(target_id=f"r0-{i:04d}", y_nm=centre(*p)[0], x_nm=centre(*p)[1], label="edge", score=0.5)
            for i, p in enumerate(pixels)
        )
        journal.append(Proposal(step_id="review-0", targets=targets))
        before = [JudgedTarget(target=t, state=TargetState.PROPOSED) for t in targets]
        after = [
            JudgedTarget(target=t, state=TargetState.REJECTED if i in rejected else TargetState.APPROVED)
            for i, t in enumerate(targets)
        ]
        ids = tuple(t.target_id for t in targets)
        if targets:
            journal.append(
                Decision(step_id="review-0", action="verdict", target_ids=ids, before=tuple(before), after=tuple(after))
            )
        review = ReviewOutcome(approved=tuple(j.target for j in after if j.state is TargetState.APPROVED))
        journal.write_result(StepResult(step=AwaitReview(step_id="review-0", targets=targets), review=review))
        for number, target in enumerate(targets):
            if number in rejected:
                continue
            step = Acquire(
                step_id=target.target_id,
                target_id=target.target_id,
                y_nm=target.y_nm + drift[0],
                x_nm=target.x_nm + drift[1],
                drift_nm=drift,
                exposure_s=0.1,
            )
            if number in failed:
                journal.write_result(StepResult(step=step, status="failed", reason="no answer"))
            else:
                journal.write_result(StepResult(step=step, frames=(spectrum(number),), dose_e_per_a2=0.25))
        if stop:
            journal.append(RunStop(outcome="finished", steps_done=len(journal.steps)))
        return journal.path


def frames_of(path):
    with Journal.open(path, read_only=True) as journal:
        return assemble(journal)


def test_every_spectrum_is_on_its_pixel_and_in_the_table(tmp_path):
    pixels = [(0, 0), (9, 11), (4, 7), (4, 8)]
    cube, table, image = frames_of(make_run(tmp_path / "r", pixels))
    assert cube.shape == (ROWS, COLUMNS, CHANNELS)
    assert (cube.axes[0], cube.axes[1]) == image.axes
    for number, pixel in enumerate(pixels):
        np.testing.assert_array_equal(cube.data[pixel], spectrum(number).data)
        np.testing.assert_array_equal(table.data[number], spectrum(number).data)
    measured = np.isfinite(cube.data).all(-1)
    assert measured.sum() == len(pixels)
    assert np.isnan(cube.data[~measured]).all()
    # the drift is taken off: the table says where in the overview, not where the probe was sent
    np.testing.assert_allclose(table.metadata["points"]["y_nm"], [centre(*p)[0] for p in pixels])
    np.testing.assert_allclose(table.metadata["points"]["x_nm"], [centre(*p)[1] for p in pixels])
    assert table.metadata["points"]["drift_y_nm"] == [0.6] * 4
    assert cube.metadata["simulated"] is True
    assert cube.metadata["map"]["measured_pixels"] == 4
    # what differed from point to point is not told as if it held for all
    assert "exposure_started_s" not in cube.metadata
    assert cube.metadata["exposure_s"] == 0.1


def test_two_points_on_a_pixel_are_averaged_in_the_map_only(tmp_path):
    cube, table, _ = frames_of(make_run(tmp_path / "r", [(3, 3), (3, 3), (5, 5)]))
    np.testing.assert_allclose(cube.data[3, 3], (spectrum(0).data + spectrum(1).data) / 2)
    assert cube.metadata["map"]["pixels_with_several_points"] == 1
    assert table.shape == (3, CHANNELS)


@given(
    st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, COLUMNS - 1)), min_size=1, max_size=6, unique=True),
    st.sampled_from([1, 3, 10, 40, 1000]),
)
def test_a_small_limit_crops_and_bins_but_loses_no_counts(tmp_path_factory, pixels, pixels_allowed):
    path = make_run(tmp_path_factory.mktemp("run") / "r", pixels)
    module = sys.modules["napari_smarttem.engine.export"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LARGEST_MAP_BYTES", pixels_allowed * CHANNELS * 4)
        cube, table, _ = frames_of(path)
    assert np.prod(cube.shape[:2]) <= max(pixels_allowed, 1)
    # each point lies in the pixel that its calibrated place says, whatever the cropping and binning
    for number, (row, column) in enumerate(pixels):
        y_nm, x_nm = centre(row, column)
        place = round(cube.axes[0].index(y_nm) - 1e-9), round(cube.axes[1].index(x_nm) - 1e-9)
        together = [
            n
            for n, p in enumerate(pixels)
            if abs(centre(*p)[0] - cube.coordinates("y")[place[0]]) < cube.axes[0].scale / 2 + 1e-9
            and abs(centre(*p)[1] - cube.coordinates("x")[place[1]]) < cube.axes[1].scale / 2 + 1e-9
        ]
        assert number in together
        expected = np.mean([spectrum(n).data for n in together], axis=0)
        np.testing.assert_allclose(cube.data[place], expected, rtol=1e-6)
    assert table.shape[0] == len(pixels)


def test_spectra_with_other_energies_are_kept_apart(tmp_path):
    path = make_run(tmp_path / "r", [(1, 1)], stop=False)
    with Journal.open(path, sync=False) as journal:
        y_nm, x_nm = centre(2, 2)
        step = Acquire(step_id="extra", y_nm=y_nm, x_nm=x_nm, exposure_s=0.1)
        journal.write_result(StepResult(step=step, frames=(spectrum(7, offset_ev=900.0),)))
    cubes = [frame for frame in frames_of(path) if len(frame.axes) == 3]
    assert [cube.axes[2].offset for cube in cubes] == [400.0, 900.0]
    np.testing.assert_array_equal(cubes[1].data[2, 2], spectrum(7).data)
    assert np.isnan(cubes[1].data[1, 1]).all()


def test_states_and_verdicts_are_told(tmp_path):
    path = make_run(tmp_path / "r", [(1, 1), (2, 2), (3, 3)], rejected={1}, failed={2})
    with Journal.open(path, read_only=True) as journal:
        states = [item.state for item in judged_targets(journal)]
        rows = target_rows(journal, [(400.0, 401.0)])
        (image,) = overview_frames(journal)
    assert states == [TargetState.DONE, TargetState.REJECTED, TargetState.FAILED]
    assert image.signal == "HAADF"
    assert [row["verdicts"] for row in rows] == ["approved (person)", "rejected (person)", "approved (person)"]
    assert rows[0]["total_EELS"] == np.arange(CHANNELS).sum()
    assert rows[0]["sum_EELS_400_401_eV"] == 0 + 1 + 2
    assert "total_EELS" not in rows[1]


def test_csv_has_a_row_a_target(tmp_path):
    path = make_run(tmp_path / "r", [(1, 1), (2, 2)], rejected={1})
    export_run(path, tmp_path / "t.csv", windows_ev=[(400.0, 400.5)])
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["target_id"] for row in rows] == ["r0-0000", "r0-0001"]
    assert [row["state"] for row in rows] == ["done", "rejected"]
    assert float(rows[0]["y_nm"]) == centre(1, 1)[0]
    assert float(rows[0]["sum_EELS_400_400.5_eV"]) == 1.0
    assert [row["dose_e_per_a2"] for row in rows] == ["0.25", ""]
    assert {row["simulated"] for row in rows} == {"True"}


@pytest.mark.parametrize("kind", [".hspy", ".zspy"])
def test_hyperspy_opens_an_exported_run(tmp_path, kind):
    import hyperspy.api as hs

    path = make_run(tmp_path / "r", [(0, 0), (9, 11)])
    export_run(path, tmp_path / f"run{kind}")
    signals = hs.load(tmp_path / f"run{kind}")
    cube = next(s for s in signals if s.axes_manager.navigation_dimension == 2)
    assert type(cube).__name__ == "EELSSpectrum"
    assert cube.axes_manager["y"].offset == FIELD.y_nm + PIXEL_NM / 2
    assert np.isnan(cube.data).all(-1).sum() == ROWS * COLUMNS - 2
    assert "SIMULATED" in cube.metadata.General.title
    assert cube.metadata.napari_smarttem.run.outcome == "finished"
    assert list(cube.metadata.napari_smarttem.targets.state) == ["done", "done"]
    points = next(s for s in signals if s.axes_manager.navigation_dimension == 1)
    np.testing.assert_allclose(points.metadata.napari_smarttem.points.y_nm, [centre(0, 0)[0], centre(9, 11)[0]])


def test_exported_run_is_read_again(tmp_path):
    path = make_run(tmp_path / "r", [(2, 3)])
    export_run(path, tmp_path / "run.hspy")
    kinds = [len(frame.axes) for frame in read(tmp_path / "run.hspy")]
    assert kinds == [3, 2, 2]


def test_unfinished_and_odd_runs(tmp_path):
    killed = make_run(tmp_path / "killed", [(1, 1)], stop=False)
    frames = frames_of(killed)
    assert frames[0].metadata["run"]["outcome"] == "unfinished"
    blind = make_run(tmp_path / "blind", [(1, 1)], overview=False)
    (table,) = frames_of(blind)
    assert table.shape == (1, CHANNELS)
    empty = make_run(tmp_path / "empty", [], overview=False)
    assert frames_of(empty) == ()
    with pytest.raises(BadInput, match="nothing to export"):
        export_run(empty, tmp_path / "e.hspy")
    export_run(empty, tmp_path / "e.csv")
    assert (tmp_path / "e.csv").read_text().startswith("target_id,y_nm,x_nm")


def test_export_refuses_before_it_works(tmp_path, monkeypatch):
    path = make_run(tmp_path / "r", [(1, 1)])
    (tmp_path / "there.hspy").write_text("mine")
    for name, words in (("there.hspy", "exists already"), ("x.docx", "must end in")):
        with pytest.raises(BadInput, match=words):
            export_run(path, tmp_path / name)
    assert (tmp_path / "there.hspy").read_text() == "mine"
    with pytest.raises(BadInput, match="not a run folder"):
        export_run(tmp_path, tmp_path / "y.hspy")


def test_the_run_itself_is_not_touched(tmp_path):
    path = make_run(tmp_path / "r", [(1, 1), (2, 2)])
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    for kind, name in itertools.product((".hspy", ".csv", ".ome.zarr"), ("a",)):
        export_run(path, tmp_path / f"{name}{kind}")
    assert before == {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
