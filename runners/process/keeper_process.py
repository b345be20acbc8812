"""Both ends of the socket through which the keeper server gives jobs to a keeper. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
from typing import Any

from runners.process import attempts
from runners.process.job_files import ExitFile, PreparedFiles
from runners.process.keeper import Keeper
from runners.process.private_folder import PrivateFolder, remove_private_folder

HEADER = "=Q"
"""The number of bytes that a keeper receives."""
PREPARE_AFTER_MS = 2
"""Milliseconds without a request or news after which the next start is prepared. Until then, the engine and the
keepers need the CPU more."""


class KeeperProcess:
    """A forked keeper, as the server sees it. It waits for a job, has one, or is about to end."""

    def __init__(self, pid: int, start_time: int, channel: socket.socket, prepared_folders: str) -> None:
        self.pid = pid
        self.start_time = start_time
        self._channel = channel
        self._prepared_folders = prepared_folders
        self._prepared: PrivateFolder | None = None
        """The folder of its next job."""

    def prepare(self, boot_id: str) -> None:
        """Prepare a folder for the next job, unless there is one. On a full disk, each start creates its folder."""
        if self._prepared is None:
            with contextlib.suppress(OSError):
                self._prepared = PrivateFolder.prepare(f"{self._prepared_folders}/{self.pid}", self._identity(boot_id))

    def make_folder(self, path: str, boot_id: str) -> PrivateFolder | None:
        """Return the folder of a job that this keeper is to have, as `PrivateFolder.of_job` does. Raises OSError."""
        if self._prepared is None or not self._prepared.give_to(path):
            return PrivateFolder.of_job(path, self._identity(boot_id))
        folder, self._prepared = self._prepared, None
        return folder

    def give_job(self, spec: dict[str, Any], folder: PrivateFolder) -> None:
        """Pass the job with the files of its folder to the keeper.

        Raises OSError if the keeper has died; then it has not begun the job.
        """
        data = json.dumps([spec, folder.path]).encode()
        socket.send_fds(self._channel, [struct.pack(HEADER, len(data))], [folder.attempt, folder.exit_file])
        self._channel.sendall(data)

    def close(self) -> None:
        """Give the keeper no more jobs. It ends once it has none."""
        self._channel.close()
        if self._prepared is not None:
            self._prepared.remove()
            self._prepared = None
        files_of_keeper(self._prepared_folders, self.pid).remove()  # it may have been killed

    def close_files(self) -> None:
        """In another keeper: close the files that it has inherited."""
        self._channel.close()
        if self._prepared is not None:
            self._prepared.close()

    def _identity(self, boot_id: str) -> dict[str, Any]:
        return {"boot_id": boot_id, "pid": self.pid, "start_time": self.start_time}


def keep_jobs(channel: socket.socket, keeper: Keeper) -> None:
    """In the keeper: keep one job after the other, until the server or the keeper itself is done with that."""
    can_continue = True
    while can_continue:
        _prepare_if_idle(channel, keeper)
        job = _receive_job(channel)
        if job is None:
            break
        spec, folder, attempt, exit_file = job
        can_continue = keeper.keep(spec, folder, attempt, ExitFile(f"{folder}/exit.json", exit_file))
    keeper.prepared.remove()


def _prepare_if_idle(channel: socket.socket, keeper: Keeper) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    if not poll.poll(PREPARE_AFTER_MS):
        keeper.prepared.prepare()


def files_of_keeper(prepared_folders: str, pid: int) -> PreparedFiles:
    return PreparedFiles(f"{prepared_folders}/{pid}.files")


def remove_prepared(path: str) -> None:
    """Remove what a dead server and its keepers have prepared in the folder `path`, which is created if it is missing.

    Raises OSError.
    """
    os.makedirs(path, 0o700, exist_ok=True)
    for name in os.listdir(path):
        PreparedFiles(f"{path}/{name}").remove()
        remove_private_folder(f"{path}/{name}")


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
