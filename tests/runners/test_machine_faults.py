"""Faults of the machine are told from faults of the job."""

from __future__ import annotations

import errno

import pytest

from runners.machine_faults import is_machine_fault


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        "failed to register layer: write /big: no space left on device",
        "fork/exec /usr/bin/runc: resource temporarily unavailable",
        "dial tcp 10.0.0.1:443: connect: connection refused",
        "dial tcp: i/o timeout",
        "failed to create endpoint x on network bridge: adding interface y to bridge docker0 failed",
    ],
)
def test_machine_fault_is_recognized(error):
    assert is_machine_fault(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, "No such file or directory"),
        OSError(errno.EACCES, "Permission denied"),
        "unable to find user app: no matching entries in passwd file",
        "max depth exceeded",
        "",
    ],
)
def test_other_errors_are_not_machine_faults(error):
    assert not is_machine_fault(error)
