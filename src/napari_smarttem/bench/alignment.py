"""How well aberrations are read from one Ronchigram, how honest the error bars are, and what the closed loop reaches.

``mae_*_512`` and ``mae_*_256``: mean absolute errors on fresh frames of the published ranges (300 kV, +-30 mrad, 200 electrons per
pixel; C1 -2000..-1000 nm, A1 +-100 nm, B2 and A2 +-1 um, C3 +-100 um); A1, B2 and A2 are means over both parts. ``bound_*`` is the
Cramer-Rao bound under the Whittle likelihood on the same frames, each with its own film. A frame that the verdict refuses counts as
it was fitted. Baselines: the published network, and this product's network without refinement.

``loop_success``: fraction of simulated columns (misaligned in the same ranges; with drift, cross-talk, play and noise of the
controls) whose phase stays under pi/4 to 25 mrad after at most four Ronchigrams of half a second, by the simulator's own truth,
with C1, A1 and what was not estimated. The controls' response was learned before, once, in a run of eight frames on the same
column, which then was misaligned anew; without that it is the baseline ``not_learned``. Other baselines, on a few columns: the
published fixed gain of 1/5 in at most 25 frames, and Bayesian optimisation of all eight aberrations on the contrast of 60 images.

All these frames come from the simulator that the network was trained on, with other specimens. ``mae_*_other_simulator`` are errors
on eight frames of another program (`parts.other_simulator`: abTEM's multislice of films of single atoms, half the published
ranges); their bound takes this package's film that comes nearest to it for granted. ``image_network`` beside ``mae_*_256`` is the
published way, an image network on a fixed set of 20 000 pictures (`parts.image_network`), on the same frames; a quick run leaves it
out.

The whole takes about an hour of two cores. With ``--keep FILE`` what was measured is kept there as it comes, and the same command
goes on after it was stopped.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..physics.aberrations import ESTIMATED
from ..physics.ronchigram import Geometry, Recording
from .parts.image_network import image_network
from .parts.kept import Kept
from .parts.progress import Progress
from .parts.ronchigrams import BAD_KINDS, bad_frame, by_images, closed_loop
from .report import figure, report

Task = tuple[Callable[..., Any], tuple[Any, ...]]

PUBLISHED = {"c1_nm": 23.0, "a1_nm": 5.0, "b2_nm": 49.0, "a2_nm": 38.0, "c3_um": 4.0}
TO_REACH = {"c1_nm": 6.0, "a1_nm": 2.0, "b2_nm": 18.0, "a2_nm": 25.0, "c3_um": 1.5}
GROUPS = {"c1_nm": (0,), "a1_nm": (1, 2), "b2_nm": (3, 4), "a2_nm": (5, 6), "c3_um": (7,)}
OTHERS = {
    "80kv_30mrad": (80e3, 30.0),
    "200kv_30mrad": (200e3, 30.0),
    "300kv_20mrad": (300e3, 20.0),
    "300kv_40mrad": (300e3, 40.0),
}


CHUNK = 20
"""Frames of one task; each chunk has a random stream of its own, so that the figures do not depend on who did it when."""


def run(
    *, quick: bool = False, seed: int = 0, frames: int | None = None, loops: int | None = None, keep: Path | None = None
) -> dict[str, Any]:
    """Measure; the figures of ``smarttem bench alignment``.

    Parameters
    ----------
    frames, loops : int or None
        Frames of each size and columns; None: 1000, or 24 where `quick`, and a tenth as many columns, at least six.
    keep : Path or None
        File of results: what is in it is not measured again, what is not is added.

    Raises
    ------
    BadInput
        Where the file `keep` holds something else.
    """
    from ..alignment.estimator import MODEL
    from ..nn.registry import load

    weights = load(MODEL).card["sha256"][:12]
    kept = Kept(keep, f"alignment, version {__version__}, weights {weights}, seed {seed}")
    frames = frames or (24 if quick else 1000)
    loops = loops or max(6, frames // 10)
    few, slow = max(4, frames // 25), max(1, loops // 20)
    tasks: dict[str, list[Task]] = {
        f"frames {pixels}": _frames(Geometry(300e3, 30.0, pixels), frames, seed) for pixels in (512, 256)
    }
    for name, (kv, half) in OTHERS.items():
        tasks[name] = _frames(Geometry(kv, half, 512), few, seed)
    tasks["calibration_2_percent"] = _frames(Geometry(), few, seed, 1.02)
    tasks["calibration_minus_2_percent"] = _frames(Geometry(), few, seed, 0.98)
    bad = max(2, min(300, frames) // len(BAD_KINDS))
    tasks["bad"] = [(unusable, (kind, 1000 * seed + n)) for n in range(bad) for kind in BAD_KINDS]
    first = 1000 * seed + 500
    published = {"frames": 25, "fixed_gain": 0.2, "offsets_nm": (-1500.0,)}
    tasks["loops"] = [(loop, (first + k, {"frames": 4, "learned": True})) for k in range(loops)]
    tasks["fresh loops"] = [(loop, (first + k, {"frames": 4})) for k in range(max(1, loops // 4))]
    tasks["published loops"] = [(loop, (first + k, published)) for k in range(slow)]
    tasks["image loops"] = [(by_images, (first + k, 20 if quick else 60)) for k in range(slow)]
    tasks["other simulator"] = [(other_rows, (pixels, seed, 2 if quick else None)) for pixels in (512, 256)]
    if not quick:
        tasks["image network"] = [(image_network, (frames, CHUNK, seed))]
    done = _done(tasks, kept)
    figures: dict[str, Any] = {}
    pictures = grouped(np.asarray(done["image network"][0])[:, 0]) if "image network" in done else {}
    for pixels in (512, 256):
        figures |= accuracy(pixels, done[f"frames {pixels}"], pictures if pixels == 256 else {})
    for pixels, result in zip((512, 256), done["other simulator"], strict=True):
        figures |= elsewhere(pixels, np.asarray(result))
    for name in (*OTHERS, "calibration_2_percent", "calibration_minus_2_percent"):
        errors = np.concatenate(done[name])[:, 0]
        figures |= {f"mae_{key}_{name}": figure(value, "<=", None) for key, value in grouped(errors).items()}
    by_kind = {
        kind.replace(" ", "_"): float(np.mean(done["bad"][k :: len(BAD_KINDS)])) for k, kind in enumerate(BAD_KINDS)
    }
    figures["reject_bad"] = figure(float(np.mean(list(by_kind.values()))), ">=", 0.99, **by_kind)
    figures |= speed() | in_a_loop(done)
    for name, count in (("frames", frames), ("frames_elsewhere", few), ("frames_unusable", bad * len(BAD_KINDS)),
                        ("loops", loops), ("loops_not_learned", max(1, loops // 4)), ("loops_of_baselines", slow)):  # fmt: skip
        figures[name] = figure(count, ">=", None)
    return report("alignment", seed, figures)


def _frames(geometry: Geometry, count: int, seed: int, wrong: float = 1.0) -> list[Task]:
    return [(rows, (geometry, min(CHUNK, count - n), (seed, n), wrong)) for n in range(0, count, CHUNK)]


def _done(tasks: dict[str, list[Task]], kept: Kept) -> dict[str, list[Any]]:
    """What every task gives, two processes of one thread each at work."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    named = {f"{name}: {given!r}": (work, given) for name, several in tasks.items() for work, given in several}
    say = Progress("alignment")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        waiting = {pool.submit(work, *given): task for task, (work, given) in named.items() if task not in kept}
        for number, one in enumerate(as_completed(waiting), 1):
            kept.put(waiting[one], one.result())
            say(f"{number} of {len(waiting)}, {waiting[one]}")
    return {name: [kept[f"{name}: {given!r}"] for _, given in several] for name, several in tasks.items()}


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@functools.lru_cache(maxsize=1)
def estimator() -> Any:
    """The product's, once a process."""
    from ..alignment.estimator import Estimator

    return Estimator()


def rows(geometry: Geometry, count: int, seed: tuple[int, int], wrong: float) -> np.ndarray:
    """Of each frame: errors, standard errors, errors of the network alone, bound, whether refused; (count, 5, 8)."""
    from ..alignment.bound import standard_errors
    from .parts.ronchigrams import good_frames

    out = []
    for truth, frame, film in good_frames(geometry, count, seed):
        stated = {"high_tension_v": geometry.high_tension_v, "half_angle_mrad": geometry.half_angle_mrad * wrong}
        found = estimator().measure(frame, **stated)
        plain = estimator().measure(frame, refined=False, **stated)
        bound = standard_errors(geometry, truth, film=film, recording=Recording(dose_e_per_px=200.0))
        refused = np.full(8, float(not found.good))
        out.append([found.coefficients - truth, found.sigma, plain.coefficients - truth, bound, refused])
    return np.array(out)


def other_rows(pixels: int, seed: int, count: int | None = None) -> np.ndarray:
    """As `rows`, of (some) frames of another program, and the errors on frames of this one, all else the same; (frames, 6, 8)."""
    import torch

    from ..alignment.bound import standard_errors
    from ..physics.ronchigram import simulate
    from .parts.other_simulator import DOSE_E_PER_PX, frames

    out = []
    generator = torch.Generator().manual_seed(1000 * seed + 80)
    for geometry, truth, frame, film in itertools.islice(frames(pixels, seed), count):
        stated = {"high_tension_v": geometry.high_tension_v, "half_angle_mrad": geometry.half_angle_mrad}
        stated["expected_c1_nm"] = -750.0  # the middle of the range it was drawn from
        found = estimator().measure(frame, **stated)
        plain = estimator().measure(frame, refined=False, **stated)
        recording = Recording(dose_e_per_px=DOSE_E_PER_PX, source_sigma_nm=0.0, focal_spread_nm=0.0, mtf_sigma_px=0.0)
        bound = standard_errors(geometry, truth, film=film, recording=recording)
        own = simulate(geometry, truth, ESTIMATED, film=film, recording=recording, generator=generator)[0].numpy()
        same = estimator().measure(own, **stated).coefficients - truth
        refused = np.full(8, float(not found.good))
        out.append([found.coefficients - truth, found.sigma, plain.coefficients - truth, bound, refused, same])
    return np.array(out)


def unusable(kind: str, seed: int) -> bool:
    """Whether an unusable frame is refused."""
    frame = bad_frame(kind, Geometry(300e3, 30.0, 512), seed)
    return not estimator().measure(frame, high_tension_v=300e3, half_angle_mrad=30.0).good


def loop(seed: int, settings: dict[str, Any]) -> tuple[float, int, bool, float]:
    """A closed loop: pi/4 angle in mrad by the truth, frames, whether every step kept its limits, electrons."""
    one = closed_loop(seed, estimator=estimator(), **settings)
    return one.quarter_pi_mrad, one.outcome.frames, one.largest_step_kept, one.electrons


def grouped(errors: np.ndarray) -> dict[str, float]:
    """Mean absolute errors by aberration, both parts together, from errors of shape (n, 8)."""
    return {name: float(np.abs(errors[:, columns]).mean()) for name, columns in GROUPS.items()}


def elsewhere(size: int, found: np.ndarray) -> dict[str, Any]:
    """Errors, coverage and refusals on frames of another program, from `other_rows`."""
    errors, sigma, network, bound, refused, own = found.transpose(1, 0, 2)
    name = "other_simulator" if size == 512 else f"other_simulator_{size}"
    net_errors, own_errors = grouped(network), grouped(own)
    bounds = {key: float(bound[:, list(c)].mean()) * math.sqrt(2 / math.pi) for key, c in GROUPS.items()}
    figures: dict[str, Any] = {
        f"mae_{key}_{name}": figure(
            value, "<=", None, this_simulator=own_errors[key], network_alone=net_errors[key], bound=bounds[key]
        )
        for key, value in grouped(errors).items()
    }
    figures |= {
        f"coverage_{share}_{name}": figure(float((np.abs(errors / sigma) < k).mean()), ">=", None)
        for k, share in ((1, 68), (2, 95))
    }
    return figures | {
        f"refused_{name}": figure(float(refused[:, 0].mean()), "<=", None),
        f"frames_{name}": figure(len(found), ">=", None),
    }


def accuracy(size: int, chunks: list[np.ndarray], pictures: dict[str, float]) -> dict[str, Any]:
    """Errors, coverage, bound, from the `rows` of frames of one size; `pictures` are the errors of an image network on them."""
    errors, sigma, network, bound, refused = np.concatenate(chunks).transpose(1, 0, 2)
    bounds = {name: float(bound[:, list(c)].mean()) * math.sqrt(2 / math.pi) for name, c in GROUPS.items()}
    net_errors = grouped(network)
    figures: dict[str, Any] = {}
    for name, value in grouped(errors).items():
        goal = TO_REACH[name] if size == 512 else 1.5 * bounds[name]
        figures[f"mae_{name}_{size}"] = figure(
            value, "<=", goal, published=PUBLISHED[name], network_alone=net_errors[name], bound=bounds[name],
            **({"image_network": pictures[name]} if pictures else {}),
        )  # fmt: skip
        median = float(np.median(np.abs(errors[:, GROUPS[name]])))
        figures[f"median_{name}_{size}"] = figure(median, "<=", None)
        figures[f"bound_{name}_{size}"] = figure(bounds[name], "<=", None)
    one, two = (float((np.abs(errors / sigma) < k).mean()) for k in (1, 2))
    suffix = "" if size == 512 else f"_{size}"
    figures[f"coverage_68{suffix}"] = figure(one, ">=", 0.63)
    figures[f"coverage_68_off{suffix}"] = figure(abs(one - 0.68), "<=", 0.05)
    figures[f"coverage_95{suffix}"] = figure(two, ">=", 0.92)
    figures[f"coverage_95_off{suffix}"] = figure(abs(two - 0.95), "<=", 0.03)
    figures[f"reject_good{suffix}"] = figure(float(refused[:, 0].mean()), "<=", 0.01)
    return figures


def speed() -> dict[str, Any]:
    """Milliseconds a frame, best of five; frames per second of the forward model."""
    import torch

    from ..alignment.training import draw_published
    from ..physics.ronchigram import simulate
    from .parts.ronchigrams import good_frames

    geometry = Geometry(300e3, 30.0, 512)
    _, frame, _ = next(good_frames(geometry, 1, 5))
    torch.set_num_threads(min(2, os.cpu_count() or 1))

    def best(task: Any, times: int = 5) -> float:
        spent = []
        for _ in range(times):
            began = time.perf_counter()
            task()
            spent.append(time.perf_counter() - began)
        return min(spent)

    calibrated = {"high_tension_v": 300e3, "half_angle_mrad": 30.0}
    network = best(lambda: estimator().measure(frame, refined=False, **calibrated))
    refined = best(lambda: estimator().measure(frame, **calibrated))
    coefficients = draw_published(np.random.default_rng(0), 4)
    rates = {
        pixels: 4
        / best(lambda p=pixels: simulate(Geometry(300e3, 30.0, p), coefficients, ESTIMATED, oversampling=1), 3)
        for pixels in (512, 256)
    }
    return {
        "ms_per_frame_512": figure(1e3 * network, "<=", 60.0),
        "ms_refined_512": figure(1e3 * refined, "<=", 400.0),
        "forward_frames_per_s_512": figure(rates[512], ">=", None),
        "forward_frames_per_s_256": figure(rates[256], ">=", None),
    }


def in_a_loop(done: dict[str, list[Any]]) -> dict[str, Any]:
    """The closed loop, and beside it the published gain and Bayesian optimisation."""
    runs, fresh, slow, images = (done[f"{kind}loops"] for kind in ("", "fresh ", "published ", "image "))

    def column(of: list[Any], k: int) -> np.ndarray:
        return np.array([one[k] for one in of], dtype=float)

    def share(of: list[Any]) -> float:
        return float(np.mean(column(of, 0) >= 25.0))

    def middle(of: list[Any], k: int) -> float:
        return float(np.median(column(of, k)))

    return {
        "loop_success": figure(
            share(runs), ">=", 0.95, not_learned=share(fresh), fixed_gain_in_25=share(slow), bayesian=share(images)
        ),
        "loop_frames_median": figure(
            middle(runs, 1), "<=", 4.0, fixed_gain=middle(slow, 1), bayesian=middle(images, 1)
        ),
        "loop_quarter_pi_median_mrad": figure(
            middle(runs, 0), ">=", 25.0, fixed_gain=middle(slow, 0), bayesian=middle(images, 0)
        ),
        "loop_quarter_pi_p5_mrad": figure(float(np.quantile(column(runs, 0), 0.05)), ">=", None),
        "loop_steps_within_limits": figure(float(column(runs, 2).mean()), ">=", 1.0),
        "loop_electrons": figure(
            middle(runs, 3), "<=", None, fixed_gain=middle(slow, 3), bayesian=middle(images, 2)
        ),
    }  # fmt: skip
