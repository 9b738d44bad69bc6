"""The published server's class, re-enacted over a fake GMS with its faults: for tests of the client only."""

from __future__ import annotations

import time

import numpy as np

from napari_smarttem.backends.digitalmicrograph.fake_gms import FakeGMS, InstantWorld


class Shared:
    """What all connections of the real one share: GMS, and the module's global scan parameters."""

    def __init__(self, revision="pixels", rotation_offset=0.0, zoom=0.7, world=None):
        self.gms = FakeGMS(world or InstantWorld(), one_thread=False, rotation_offset=rotation_offset, zoom=zoom)
        self.unhurried = world is not None
        self.revision = revision
        self.ds_parameters = [0.0, 0.0, 1.0, 1.0]
        self.exposures = []


class ArrayServer:
    """One per connection, so that the camera is forgotten with it."""

    def __init__(self, shared):
        self._shared = shared

    def activate_camera(self):
        self._camera = self._shared.gms.GetActiveCamera()
        self._image = self._camera.CreateImageForAcquire(1, 1, 3, 974, 0, 1074, 2048)

    def acquire_camera(self, exposure):
        self._shared.exposures.append(self._shared.gms.world.position)
        self._camera.AcquireInPlace(self._image, exposure, 1, 1, 3, 974, 0, 1074, 2048)

    def get_eels(self, dummy=False):
        spectrum = self._image.GetNumArray().sum(axis=0)
        return spectrum.tolist(), spectrum.shape, str(spectrum.dtype)

    def get_ds(self, size=256, pixelTime=10, return_params=False, front_image=False):
        gms = self._shared.gms
        image = gms.CreateImage(np.zeros((size, size), np.uint32))
        number = gms.DS_CreateParameters(size, size, 0.0, pixelTime, False)
        gms.DS_SetParametersSignal(number, 1, 4, True, image.GetID())
        gms.DS_StartAcquisition(number, False, False)
        if self._shared.unhurried:
            time.sleep(size * size * pixelTime * 1e-6)
        gms.digiscan.active.started_s -= 3600.0  # over by now
        gms.digiscan.is_active()
        gms.DS_DeleteParameters(number)
        spacing = image.GetTagGroup().GetTagAsFloat("DigiScan:Horizontal Spacing")[1]
        parameters = [-size / 2 * spacing, -size / 2 * spacing, spacing, spacing]
        if self._shared.revision == "pixels":  # the later one assigns a local variable, so the global stays as it was
            self._shared.ds_parameters = parameters
        data = image.GetNumArray()
        return data.tolist(), data.shape, str(data.dtype)

    def get_beam_control(self):
        self._shared.gms.digiscan.set_control(1)

    def get_beam_pos(self):
        return tuple(self._shared.gms.digiscan.beam)

    def set_beam_pos(self, x, y):
        x0, y0, dx, dy = self._shared.ds_parameters
        self._shared.gms.digiscan.set_ds(x0 + x * dx, y0 + y * dy)

    def set_energy_Offset(self, offset=0):
        self._shared.gms.filter.set_energy(offset)


METHODS = {name for name in vars(ArrayServer) if not name.startswith("_")}


class CommunicationError(Exception):
    """Pyro5's has this name."""


class LocalProxy:
    """A proxy without a network: plain values only go through, and it can break."""

    def __init__(self, shared, without=()):
        self._server, self._shared = ArrayServer(shared), shared
        self._pyroMethods = METHODS - set(without)
        self.broken = False

    def __getattr__(self, name):
        def call(*arguments):
            assert all(type(a) in (int, float, bool) for a in arguments), "serpent takes no numpy numbers"
            if self.broken:
                raise CommunicationError("connection lost")
            return getattr(self._server, name)(*arguments)

        return call

    def _pyroRelease(self):
        self.broken = True
