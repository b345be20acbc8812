"""Both ends of the socket through which the keeper server gives jobs to a keeper. Standard library only."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

from runners.process import attempts
from runners.process.job_files import ExitFile
from runners.process.keeper import Keeper

HEADER = "=Q"
"""The number of bytes that a keeper receives."""


class KeeperProcess:
    """A forked keeper, as the server sees it. It waits for a job, has one, or is about to end."""

    def __init__(self, pid: int, start_time: int, channel: socket.socket) -> None:
        self.pid = pid
        self.start_time = start_time
        self._channel = channel

    def give_job(self, spec: dict[str, Any], folder: str, attempt: int, exit_file: int) -> None:
        """Pass the job, the locked attempt and the file for its exit to the keeper.

        Raises OSError if the keeper has died; then it has not begun the job.
        """
        data = json.dumps([spec, folder]).encode()
        socket.send_fds(self._channel, [struct.pack(HEADER, len(data))], [attempt, exit_file])
        self._channel.sendall(data)

    def close(self) -> None:
        """Give the keeper no more jobs. It ends once it has none."""
        self._channel.close()


def keep_jobs(channel: socket.socket, keeper: Keeper) -> None:
    """In the keeper: keep one job after the other, until the server or the keeper itself is done with that."""
    can_continue = True
    while can_continue and (job := _receive_job(channel)) is not None:
        spec, folder, attempt, exit_file = job
        can_continue = keeper.keep(spec, folder, attempt, ExitFile(f"{folder}/exit.json", exit_file))


def _receive_job(channel: socket.socket) -> tuple[dict[str, Any], str, int, int] | None:
    """Wait for the next job and take it.

    Return (spec, folder, attempt, file for the exit), or None if the server has ended or gives this keeper no more
    jobs. The job is the keeper's for as long as it keeps the attempt open.
    """
    header, received, _, _ = socket.recv_fds(channel, struct.calcsize(HEADER), 2)
    if len(header) < struct.calcsize(HEADER):
        return None
    attempt, exit_file = received
    for file in received:
        os.set_inheritable(file, False)  # a job that inherits it would hold the lock after the keeper has died
    (size,) = struct.unpack(HEADER, header)
    data = bytearray()
    while len(data) < size:
        part = channel.recv(min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    spec, folder = json.loads(data)
    attempts.take(attempt)
    return spec, folder, attempt, exit_file
