"""Take capabilities from the calling thread for a while, as a reduced systemd unit or a rootless container does."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

from tests.require import require_root

CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER = 0, 1, 2, 3
_VERSION = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextlib.contextmanager
def without_capabilities(*numbers: int) -> Iterator[None]:
    """Run the block as root without these capabilities. Skips the test where it does not run as root."""
    require_root()
    before = _get()
    reduced = _get()
    for number in numbers:
        reduced[0].effective &= ~(1 << number)
    _set(reduced)
    try:
        yield
    finally:
        _set(before)


def _get() -> ctypes.Array[_Set]:
    sets = (_Set * 2)()
    _call("capget", sets)
    return sets


def _set(sets: ctypes.Array[_Set]) -> None:
    _call("capset", sets)


def _call(name: str, sets: ctypes.Array[_Set]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(ctypes.byref(_Header(_VERSION, 0)), sets):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
