"""Gatan DigitalMicrograph (GMS) as an instrument: `server.py` runs in GMS, this is the other end.

`connect` is the backend. How to install the server, and what it may do, is in docs/how-to/digitalmicrograph.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import DigitalMicrograph

TOKEN_VARIABLE = "SMARTTEM_DM_TOKEN"  # noqa: S105 - the name of a variable
_tokens: dict[str, str] = {}
"""Tokens of this program's run, by address: they are written into no file, so a run that is resumed asks here."""


def connect(
    address: str = "tcp://127.0.0.1:9471",
    token: str = "",
    *,
    overview_pixels: int = 512,
    rotation_deg: float = 0.0,
    beam_current_pa: float | None = None,
    nm_per_pixel: float | None = None,
    camera_band: Sequence[int] | None = None,
    vertical_binning: int = 1,
    dispersion_ev: float | None = None,
    zero_loss_channel: float | None = None,
    dispersion_table: Mapping[str, float] | None = None,
    energy_range_ev: Sequence[float] = (-100.0, 2000.0),
    settle_s: float = 1e-3,
    longest_frame_s: float = 1.0,
    camera_mrad_per_pixel: float | None = None,
    camera_binning: int = 1,
    corrector: str = "",
    reconnect_s: float = 10.0,
) -> DigitalMicrograph:
    """Drive a microscope through Gatan's DigitalMicrograph, in which server.py is running.

    Parameters
    ----------
    address, token : str
        As the server printed them. An empty token: the last one used for this address, or the environment variable
        ``SMARTTEM_DM_TOKEN``; it is never written into a run.
    overview_pixels : int
        Side of the reference scan; positions are set by its pixels, and it is made with the beam blanked.
    rotation_deg : float
        Scan rotation.
    beam_current_pa : float, optional
        GMS does not know it; without it no dose can be counted.
    nm_per_pixel : float, optional
        Of the reference scan, where GMS has no calibration.
    camera_band : (top, left, bottom, right), optional
        Part of the sensor that is read, in unbinned pixels; None: as GMS has it.
    vertical_binning : int
        On the sensor; more is faster and has less read-out noise.
    dispersion_ev, zero_loss_channel : float, optional
        The energy axis, where GMS does not calibrate it.
    dispersion_table : mapping, optional
        Dispersions in eV by the filter's index, such as ``{"5": 0.5}``, where the server may switch them.
    energy_range_ev : (float, float)
        Smallest and largest energy offset.
    settle_s : float
        Wait after the beam has moved.
    longest_frame_s : float
        Longer exposures are sums of several.
    camera_mrad_per_pixel : float, optional
        Of an image as it is recorded, binned; makes the camera available for images of the angle plane. Where GMS then gives no
        energy calibration, since the camera is not behind the filter, the instrument has no spectrometer.
    camera_binning : int
        Of images of the angle plane, along both sides.
    corrector : str
        Address of a CEOS corrector gateway, ``tcp://HOST:7072``: makes the optics available. See `ceos.CeosOptics`.
    reconnect_s : float
        How long a lost connection is tried again.

    Raises
    ------
    BadInput
        A wrong address or token.
    InstrumentFault
        Nothing answers, or GMS lacks a calibration that is needed.
    """
    from ...schema import BadInput
    from .client import DigitalMicrograph, Settings

    known = token or _tokens.get(address) or os.environ.get(TOKEN_VARIABLE, "")
    if not known:
        raise BadInput("The server's token is needed: paste the one that server.py printed in DigitalMicrograph.")
    if camera_band is not None and len(camera_band) != 4:
        raise BadInput(f"The camera band is (top, left, bottom, right), got {camera_band!r}.")
    settings = Settings(
        address=address,
        overview_pixels=int(overview_pixels),
        rotation_deg=float(rotation_deg),
        beam_current_pa=beam_current_pa,
        nm_per_pixel=nm_per_pixel,
        camera_band=None if camera_band is None else tuple(int(v) for v in camera_band),  # type: ignore[arg-type]
        vertical_binning=int(vertical_binning),
        dispersion_ev=dispersion_ev,
        zero_loss_channel=zero_loss_channel,
        dispersion_table=dispersion_table,
        energy_range_ev=(float(energy_range_ev[0]), float(energy_range_ev[1])),
        settle_s=float(settle_s),
        longest_frame_s=float(longest_frame_s),
        camera_mrad_per_pixel=camera_mrad_per_pixel,
        camera_binning=int(camera_binning),
        corrector=str(corrector),
        reconnect_s=float(reconnect_s),
    )
    instrument = DigitalMicrograph(settings, known)
    _tokens[address] = known
    return instrument
