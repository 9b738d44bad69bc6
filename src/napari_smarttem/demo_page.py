"""The demonstration as one self-contained HTML page: pictures, figures and commands, with nothing to fetch."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .schema import TargetState

if TYPE_CHECKING:
    from .demo import Story

_STYLE = """
:root { color-scheme: dark; }
body { background: #16191d; color: #e6e6e6; font: 16px/1.55 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
p { max-width: 46rem; } img { width: 100%; border-radius: 6px; } a { color: #56B4E9; }
.mark { background: #F0E442; color: #16191d; font-weight: 700; padding: .1rem .6rem; border-radius: 4px; letter-spacing: .06em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.tile { background: #20252b; border-radius: 8px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.5rem; font-weight: 600; }
.tile span { color: #a3acb8; font-size: .86rem; }
pre { background: #0d0f12; border-radius: 6px; padding: .9rem 1.1rem; overflow-x: auto; font-size: .84rem; line-height: 1.5; }
pre b { color: #00B583; font-weight: 600; }
table { border-collapse: collapse; font-size: .9rem; }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid #2c333b; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
"""


def page(story: Story, pictures: dict[str, Path], why_no_window: str) -> str:
    """The whole page as text; pictures are inside it."""
    from .demo import APPROVED_FROM

    m = story.metrics
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>napari-smarttem demonstration</title><style>{_STYLE}</style></head><body>",
        "<h1>Spectra only where they matter</h1>",
        f"<p><span class='mark'>SIMULATED</span> &nbsp;napari-smarttem {escape(__version__)}. A simulated microscope, "
        "core-shell particles on a carbon film. Nothing on this page was measured on a real specimen.</p>",
        _tiles(m),
        "<h2>Where to measure</h2>",
        f"<p>The chooser looked at the overview once and proposed {m['points_proposed']} places, each with a score and a reason. "
        f"The policy approved those with a score of at least {APPROVED_FROM:g} and rejected {m['points_rejected']}. "
        f"{m['near_boundary_fraction']:.0%} of the measured points lie within 2 nm of a true boundary between phases; "
        f"of points drawn by lot it would be {m['near_boundary_fraction_of_random_points']:.0%}.</p>",
        _picture(pictures["overview"], "Overview with the proposed points"),
        _targets(story),
        "<h2>What came in</h2>",
        _picture(pictures["spectra"], "Mean spectra of film, core and shell"),
        "<p>Counts in an energy window above a power-law background, at the measured places only. "
        "<i>r</i> is the correlation with the atoms per area that the simulator put there.</p>",
        _picture(pictures["maps"], "Ground truth and window maps"),
        "<h2>Drift, followed</h2>",
        f"<p>The specimen drifted; the plan re-imaged it every 20 points. Without correction the probe would have been "
        f"{m['drift_uncorrected_nm_rms']:.2f} nm off (rms); it was {m['drift_residual_nm_rms']:.2f} nm "
        f"({m['drift_residual_nm_rms'] / m['pixel_nm']:.2f} overview pixels).</p>",
        _picture(pictures["drift"], "Drift and correction"),
        "<h2>Killed in the middle</h2>",
        f"<p>The program was killed with SIGKILL while it measured. {m['acknowledged_before_kill']} recordings had been "
        f"acknowledged; {m['lost_by_kill']} of them were lost, {m['measured_twice']} were measured twice.</p>",
        _transcript(story),
        "<h2>The window</h2>",
        _picture(pictures["window"], "The run in napari")
        if "window" in pictures
        else f"<p>{escape(why_no_window)}</p>",
        "<h2>Files</h2><p>Beside this page: <code>particles.smarttem</code> (the run), <code>particles.hspy</code> "
        "(opens in HyperSpy with calibrated axes; unmeasured pixels are NaN), <code>particles.csv</code> (a row a target), "
        "<code>metrics.json</code>.</p>",
        "</body></html>",
    ]
    return "\n".join(parts)


def _tiles(m: dict[str, Any]) -> str:
    saved = m["exposure_of_every_pixel_s"] / m["exposure_of_chosen_points_s"]
    tiles = (
        (f"{m['points_measured']}", "spectra, where a full map has one in every pixel"),
        (f"{saved:.0f} ×", "less exposure than a spectrum in every pixel"),
        (f"{m['near_boundary_fraction']:.0%}", "of them within 2 nm of a boundary"),
        (f"{m['drift_residual_nm_rms']:.2f} nm", "left of the drift (rms)"),
        (f"{m['lost_by_kill']} / {m['acknowledged_before_kill']}", "acknowledged recordings lost by the kill"),
    )
    return (
        "<div class='tiles'>"
        + "".join(f"<div class='tile'><b>{a}</b><span>{b}</span></div>" for a, b in tiles)
        + "</div>"
    )


def _targets(story: Story) -> str:
    """A few of the proposals, best first and last, with their reasons."""
    ranked = sorted(story.targets, key=lambda judged: -judged.target.score)
    rows = []
    for judged in (*ranked[:6], *ranked[-3:]):
        t = judged.target
        state = "measured" if judged.state is TargetState.DONE else judged.state.value
        rows.append(
            f"<tr><td>{escape(t.target_id)}</td><td class='n'>{t.y_nm:.1f}</td><td class='n'>{t.x_nm:.1f}</td>"
            f"<td class='n'>{t.score:.2f}</td><td>{escape(t.label)}</td><td>{escape(t.reason)}</td><td>{state}</td></tr>"
        )
    head = "<tr><th>point</th><th>y (nm)</th><th>x (nm)</th><th>score</th><th>class</th><th>reason</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table><p>The six best and the last three of {len(ranked)}.</p>"


def _transcript(story: Story) -> str:
    lines = []
    for command, said in story.transcript:
        lines.append(f"<b>$ {escape(command)}</b>")
        if said:
            lines.append(escape(said))
    return f"<pre>{chr(10).join(lines)}</pre>"


def _picture(path: Path, alternative: str) -> str:
    encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"<img alt='{escape(alternative)}' src='data:image/png;base64,{encoded}'>"
