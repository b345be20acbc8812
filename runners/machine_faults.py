"""Distinguish a fault of the machine from a fault of the job.

A fault of the machine (the disk is full, memory or descriptors ran out, the network or the backend is away) ends no job
and no build: the call is tried again later, with a growing pause and a note. Every runner uses this list, for starts
and for builds.
"""

from __future__ import annotations

import errno

MACHINE_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EAGAIN,
    }
)
"""Error numbers that say something about this machine and nothing about the file or command at hand."""

MACHINE_PHRASES = (
    "no space left",
    "disk quota exceeded",
    "read-only file system",
    "input/output error",
    "temporarily unavailable",
    "cannot allocate memory",
    "too many open files",
    "connection refused",
    "connection reset",
    "i/o timeout",
    "network is unreachable",
    "no route to host",
    "error dialing backend",
    "error sending request",
    "dial tcp",
    "etcdserver: ",
    "context deadline exceeded",
    "tls handshake timeout",
    "failed to create endpoint",
    "could not find bridge",
)
"""Texts of the same faults in messages of backends, in lower case."""


def is_machine_fault(error: BaseException | str) -> bool:
    """Return whether an error, or a backend's text about one, blames the machine and not the job.

    An OSError is judged by its number. Everything else is judged by its text, because a backend quotes the kernel's
    text in a sentence of its own.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in MACHINE_ERRNOS
    text = str(error).lower()
    return any(phrase in text for phrase in MACHINE_PHRASES)
