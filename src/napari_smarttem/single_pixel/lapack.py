"""Cholesky factors and triangular solves during which other threads go on.

`scipy.linalg` holds Python's lock while LAPACK works: a picture of 64 x 64 pixels would stop a window for half a second, again and
again. Here the same LAPACK routines, which SciPy exports for Cython, are called without the lock. Where SciPy does not export them
as expected, its own functions take their place.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

_ARGUMENTS = {"potrf": 5, "potrs": 8, "trtrs": 10}
_LETTERS = {np.dtype(np.float32): "s", np.dtype(np.float64): "d"}


@functools.cache
def _routine(name: str, dtype: Any) -> Any:
    """A LAPACK routine for `dtype` that is called without Python's lock, or None where it cannot be had."""
    from scipy.linalg import cython_lapack

    capsule = getattr(cython_lapack, "__pyx_capi__", {}).get(_LETTERS[np.dtype(dtype)] + name)
    if capsule is None:
        return None
    signature, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    signature.restype, signature.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    known_as = signature(capsule)
    arguments = known_as.count(b",") + 1
    if arguments != _ARGUMENTS[name] or known_as.count(b" int *") < 2:
        return None
    return ctypes.CFUNCTYPE(None, *([ctypes.c_void_p] * arguments))(pointer(capsule, known_as))


def _called(routine: Any, *arguments: Any) -> int:
    """Call by reference: letters, whole numbers and arrays; returns LAPACK's ``info``."""
    kept: list[Any] = []
    for one in arguments:
        if isinstance(one, np.ndarray):
            kept.append(ctypes.c_void_p(one.ctypes.data))
        else:
            kept.append(ctypes.byref(ctypes.c_char(one.encode()) if isinstance(one, str) else ctypes.c_int(one)))
    info = ctypes.c_int(0)
    routine(*kept, ctypes.byref(info))
    return info.value


def factorised(matrix: np.ndarray) -> np.ndarray:
    """Upper Cholesky factor of a symmetric matrix (n, n), in the upper half of it and in its place.

    Parameters
    ----------
    matrix : ndarray, shape (n, n), float32 or float64
        C-contiguous; overwritten.

    Raises
    ------
    numpy.linalg.LinAlgError
        The matrix is not positive definite.
    """
    turned = matrix.T  # in LAPACK's order
    routine = _routine("potrf", matrix.dtype)
    if routine is None:
        from scipy.linalg import cho_factor

        return np.asarray(cho_factor(turned, overwrite_a=True, check_finite=False)[0])
    size = len(matrix)
    if _called(routine, "U", size, turned, size) != 0:
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    return turned


def solved(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``(U^T U)^-1 b`` for a vector (n,) or columns (n, m) and the factor of `factorised`."""
    routine = _routine("potrs", factor.dtype)
    if routine is None:
        from scipy.linalg import cho_solve

        return np.asarray(cho_solve((factor, False), right, check_finite=False))
    found = np.array(right.reshape(len(factor), -1), dtype=factor.dtype, order="F")
    size, columns = found.shape
    if _called(routine, "U", size, columns, factor, size, found, size) != 0:
        raise np.linalg.LinAlgError("the factor cannot be solved with")
    return found.reshape(right.shape)


def half_solved(factor: np.ndarray, right: np.ndarray, *, transposed: bool) -> np.ndarray:
    """``U^-T b`` (`transposed`) or ``U^-1 b`` for columns (n, m) and the factor of `factorised`."""
    routine = _routine("trtrs", factor.dtype)
    if routine is None:
        from scipy.linalg import solve_triangular

        return np.asarray(solve_triangular(factor, right, trans=int(transposed), check_finite=False))
    found = np.array(right, dtype=factor.dtype, order="F")
    size, columns = found.shape
    if _called(routine, "U", "T" if transposed else "N", "N", size, columns, factor, size, found, size) != 0:
        raise np.linalg.LinAlgError("the factor is singular")
    return found
