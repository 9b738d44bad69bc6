"""``smarttem demo``: the whole main job on the simulator, from the overview to a file, with the program killed in the middle.

Everything goes through the command line, as a person would do it; what is shown is read back from the run folder. The simulator
knows the truth, so the page can say how good the answer is.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .acquisition.maps import MapWindow, window_sums
from .engine.export import assemble
from .engine.history import judged_targets, measured_steps, overview_steps
from .engine.journal import Journal
from .engine.verify import verify
from .schema import BadInput, Field2D, Frame, JudgedTarget, SmartTEMError, StepDone, TargetState

RUN = "particles.smarttem"
WINDOWS = (
    ("C", MapWindow("C K", 284.0, 344.0, (240.0, 280.0))),
    ("Ti", MapWindow("Ti L", 456.0, 506.0, (400.0, 450.0))),
    ("Cu", MapWindow("Cu L", 931.0, 1011.0, (840.0, 920.0))),
)
"""Element and energy window of each map; backgrounds end before the edge."""

DRIFT_NM_PER_S = (0.3, 0.2)
NEAR_BOUNDARY_NM = 2.0
APPROVED_FROM = 0.25


@dataclass
class Story:
    """What the demonstration did and found, for the page.

    Attributes
    ----------
    transcript : list of (str, str)
        Commands and what they said.
    metrics : dict
        Figures, as in ``metrics.json``.
    """

    transcript: list[tuple[str, str]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    overview: Frame | None = None
    targets: tuple[JudgedTarget, ...] = ()
    spectra: Frame | None = None
    true_labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    point_labels: np.ndarray | None = None
    true_atoms: dict[str, np.ndarray] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    drift: dict[str, np.ndarray] = field(default_factory=dict)


def run_demo(
    out: Path, *, seed: int = 7, points: int = 280, window: bool | None = None, say: Callable[[str], None] = print
) -> Path:
    """Run the demonstration and write its page.

    Parameters
    ----------
    out : Path
        Folder for ``index.html``, ``metrics.json``, the pictures, the run folder and its exports. What an earlier
        demonstration left there is replaced.
    seed : int
        Of the specimen, the drift, the noise and the choice.
    points : int
        Points to propose.
    window : bool or None
        Take a picture of the real window; None does where there is a display.
    say : callable
        Told what is being done, a line at a time.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    BadInput
        `out` holds something else.
    SmartTEMError
        A step went wrong; the sentence says which.
    """
    from . import demo_page, demo_pictures

    began = time.monotonic()
    out = out.absolute()
    _make_room(out)
    story = Story()
    run = out / RUN
    say(f"1/6  Acquiring {points} chosen points, and killing the program in the middle")
    before = _acquire_and_kill(out, seed, points, story)
    say("2/6  Resuming what was killed")
    _smarttem(out, story, "resume", RUN)
    _smarttem(out, story, "verify", RUN)
    say("3/6  Exporting")
    _smarttem(out, story, "export", RUN, "--to", "particles.hspy")
    _smarttem(out, story, "export", RUN, "--to", "particles.csv")
    say("4/6  Comparing with the truth")
    _read_back(run, story)
    _judge(run, before, story)
    say("5/6  Drawing")
    pictures = demo_pictures.draw(story, out)
    say("6/6  Taking a picture of the window")
    window_picture, why_not = _window_picture(out, run, window)
    if window_picture is not None:
        pictures["window"] = window_picture
    story.metrics["wall_s"] = round(time.monotonic() - began, 1)
    (out / "metrics.json").write_text(json.dumps(story.metrics, indent=2, ensure_ascii=False), encoding="utf-8")
    page = out / "index.html"
    page.write_text(demo_page.page(story, pictures, why_not), encoding="utf-8")
    say(f"Done in {story.metrics['wall_s']:.0f} s: {page}")
    return page


# -- the run ----------------------------------------------------------------------------------------------------------


def _make_room(out: Path) -> None:
    """An empty place for the demonstration; only what an earlier one wrote is removed."""
    if out.exists() and any(out.iterdir()) and not (out / "metrics.json").exists() and not (out / RUN).exists():
        raise BadInput(f"{out} holds something else; give the demonstration a folder of its own with --out.")
    out.mkdir(parents=True, exist_ok=True)
    if (out / RUN).exists():
        shutil.rmtree(out / RUN)
    for name in ("particles.hspy", "particles.csv", "metrics.json", "index.html"):
        (out / name).unlink(missing_ok=True)


def _acquire_and_kill(out: Path, seed: int, points: int, story: Story) -> dict[str, int]:
    """Start the acquisition as a program of its own and kill it in the middle; what it had acknowledged by then."""
    arguments = (
        "acquire", "--backend", "simulator", "--specimen", "core-shell", "--choose", "edges", "--points", str(points),
        "--approve", str(APPROVED_FROM), "--exposure", "0.05", "--drift-every", "20", "--seed", str(seed),
        "--backend-setting", f"drift_nm_per_s={list(DRIFT_NM_PER_S)}", "--out", RUN,
    )  # fmt: skip
    program = subprocess.Popen(
        _command(*arguments), cwd=out, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lines = out / RUN / "run.jsonl"
    deadline = time.monotonic() + 120
    while program.poll() is None and time.monotonic() < deadline:
        if lines.exists() and lines.read_bytes().count(b'"kind":"acquire"') > points // 3:
            break
        time.sleep(0.005)
    program.kill()  # SIGKILL, or what Windows has for it: no chance to tidy up
    _, said = program.communicate()
    if not lines.exists():
        raise SmartTEMError(
            f"The acquisition did not start: {said.strip().splitlines()[-1] if said.strip() else 'no word'}"
        )
    with Journal.open(out / RUN, read_only=True) as journal:
        before = _fingerprints(journal)
        finished = journal.stop is not None
    if finished:
        raise SmartTEMError(
            "The acquisition was over before it could be killed; run the demonstration with more points."
        )
    exposed = sum(1 for key in before if key.startswith("r"))
    story.transcript.append((_shown(*arguments), f"killed with SIGKILL after {exposed} acknowledged spectra"))
    _smarttem(out, story, "verify", RUN)
    return before


def _fingerprints(journal: Journal) -> dict[str, int]:
    """Checksum of the first frame of every acknowledged step that has one."""
    return {key: done.frames[0].crc32 for key, done in journal.steps.items() if done.frames}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "napari_smarttem", *arguments]


def _shown(*arguments: str) -> str:
    return shlex.join(("smarttem", *arguments))


def _smarttem(out: Path, story: Story, *arguments: str) -> None:
    done = subprocess.run(_command(*arguments), cwd=out, capture_output=True, text=True, check=False)
    story.transcript.append((_shown(*arguments), done.stdout.strip()))
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise SmartTEMError(f"{_shown(*arguments[:2])} failed: {said[-1] if said else done.stdout.strip()}")


# -- what came of it --------------------------------------------------------------------------------------------------


def _read_back(run: Path, story: Story) -> None:
    with Journal.open(run, read_only=True) as journal:
        frames = assemble(journal)
        steps = measured_steps(journal)
        first = overview_steps(journal)[0].frames[0]
        story.overview = journal.load(first)
        story.targets = judged_targets(journal)
        story.spectra = next(frame for frame in frames if frame.data.ndim == 2 and frame.axes[0].name == "point")
        story.drift = _drift(steps, story.overview)
        truths: list[Any] = [done.frames[0].metadata["truth"] for done in steps]
        story.true_atoms = {
            name: np.array([truth["atoms_per_nm2"].get(name, 0.0) for truth in truths]) for name, _ in WINDOWS
        }
        known = _ground_truth(journal, story.overview)
    story.true_labels, story.label_names = known.labels, known.label_names
    axis = story.spectra.axes[1]
    story.maps = {name: window_sums(story.spectra.data, axis, energies) for name, energies in WINDOWS}
    rows, columns = _pixels(story.overview, _places(story.spectra))
    story.point_labels = known.labels[rows, columns]


def _ground_truth(journal: Journal, overview: Frame) -> Any:
    from .backends import registry

    settings = dict(journal.start.instrument.settings)
    microscope: Any = registry.connect(journal.start.instrument.backend, **settings)
    try:
        return microscope.column.specimen.ground_truth(_covered(overview), overview.shape)
    finally:
        microscope.close()


def _covered(overview: Frame) -> Field2D:
    (y, x), (rows, columns) = overview.axes, overview.shape
    return Field2D(
        y_nm=y.offset - y.scale / 2, x_nm=x.offset - x.scale / 2, height_nm=y.scale * rows, width_nm=x.scale * columns
    )


def _places(spectra: Frame) -> np.ndarray:
    """Places of the spectra on the overview, drift taken off, shape ``(n, 2)`` in nm."""
    points: Any = spectra.metadata["points"]
    return np.stack([points["y_nm"], points["x_nm"]], axis=-1)


def _pixels(overview: Frame, places_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for column, (axis, size) in enumerate(zip(overview.axes, overview.shape, strict=True)):
        fractional = (places_nm[:, column] - axis.offset) / axis.scale
        found.append(np.clip(np.rint(fractional).astype(int), 0, size - 1))
    return found[0], found[1]


def _drift(steps: Sequence[StepDone], overview: Frame) -> dict[str, np.ndarray]:
    """Time, drift since the overview as the simulator knows it, and the correction that was applied; (n,), (n, 2), (n, 2)."""
    start: Any = overview.metadata["truth"]
    truths: list[Any] = [done.frames[0].metadata["truth"] for done in steps]
    true_nm = np.array([truth["drift_nm"] for truth in truths]) - np.array(start["drift_nm"])
    corrected = np.array([done.step.drift_nm for done in steps])  # type: ignore[union-attr]
    return {"true_nm": true_nm, "corrected_nm": corrected, "finished_s": np.array([done.finished_s for done in steps])}


def _judge(run: Path, before: dict[str, int], story: Story) -> None:
    """Figures: what was kept through the kill, where the points fell, what the drift correction left, how true the maps are."""
    overview, spectra = story.overview, story.spectra
    assert overview is not None
    assert spectra is not None
    assert story.true_labels is not None
    report = verify(run)
    with Journal.open(run, read_only=True) as journal:
        after = _fingerprints(journal)
        lines = [document.step.step_id for document in journal.documents() if document.kind == "step"]
        dose = sum(done.dose_e_per_a2 for done in journal.steps.values())
        exposure_s = float(spectra.metadata["points"]["exposure_s"][0])  # type: ignore[index,call-overload,arg-type]
    near = near_boundary(story.true_labels, overview, NEAR_BOUNDARY_NM)
    rows, columns = _pixels(overview, _places(spectra))
    residual = story.drift["corrected_nm"] - story.drift["true_nm"]
    correlations = {
        f"correlation_{name}": float(np.corrcoef(story.maps[name], story.true_atoms[name])[0, 1]) for name, _ in WINDOWS
    }
    pixels = int(np.prod(overview.shape))
    measured = len(rows)
    story.metrics.update(
        simulated=True,
        points_proposed=len(story.targets),
        points_rejected=sum(judged.state is TargetState.REJECTED for judged in story.targets),
        points_measured=measured,
        acknowledged_before_kill=len(before),
        lost_by_kill=sum(after.get(key) != crc for key, crc in before.items()),
        measured_twice=len(lines) - len(set(lines)),
        verify_ok=report.ok,
        near_boundary_fraction=float(near[rows, columns].mean()),
        near_boundary_fraction_of_random_points=float(near.mean()),
        drift_uncorrected_nm_rms=_rms(story.drift["true_nm"]),
        drift_residual_nm_rms=_rms(residual),
        pixel_nm=abs(overview.axes[0].scale),
        dose_e_per_a2=dose,
        exposure_of_every_pixel_s=pixels * exposure_s,
        exposure_of_chosen_points_s=measured * exposure_s,
        **correlations,
    )


def near_boundary(labels: np.ndarray, overview: Frame, distance_nm: float) -> np.ndarray:
    """Pixels closer than `distance_nm` to a place where the label changes, shape ``(y, x)``, bool."""
    from scipy import ndimage

    inside = np.ones(labels.shape, dtype=bool)
    vertical, horizontal = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    inside[1:] &= ~vertical
    inside[:-1] &= ~vertical
    inside[:, 1:] &= ~horizontal
    inside[:, :-1] &= ~horizontal
    sampling = [abs(axis.scale) for axis in overview.axes]
    return np.asarray(ndimage.distance_transform_edt(inside, sampling=sampling) <= distance_nm)


def _rms(vectors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.sum(vectors**2, axis=-1))))


# -- the window -------------------------------------------------------------------------------------------------------


def _window_picture(out: Path, run: Path, wanted: bool | None) -> tuple[Path | None, str]:
    """A picture of the real window that shows the run, or why there is none."""
    display = not sys.platform.startswith("linux") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if wanted is False or (wanted is None and not display):
        return None, "There was no display, so there is no picture of the window here."
    target = out / "window.png"
    target.unlink(missing_ok=True)
    command = [sys.executable, "-m", "napari_smarttem.demo_window", str(run), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return None, "The window did not open within two minutes, so there is no picture of it."
    if done.returncode != 0 or not target.exists():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return None, f"The window could not be opened: {said[-1] if said else f'exit status {done.returncode}'}"
    return target, ""
