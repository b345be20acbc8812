"""Watch the keepers that are alive, and signal them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import weakref
from collections.abc import Callable

from runners.process.linux import process_stat


class KeeperWatch:
    """The keepers that the engine watches: one process descriptor for each, and one thread that waits for their ends.

    `wake` is called in that thread when a keeper has ended.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._processes: dict[str, int] = {}
        """Job uuid → process descriptor of its keeper."""
        self._uuids: dict[int, str] = {}
        """The inverse of `_processes`."""
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._close_read, self._close_write = os.pipe2(os.O_CLOEXEC)
        for descriptor in (self._close_read, self._close_write):
            weakref.finalize(self, os.close, descriptor)
        self._epoll.register(self._close_read, select.EPOLLIN)
        self._thread: threading.Thread | None = None

    def is_watched(self, uuid: str) -> bool:
        """Return whether the keeper of a job is watched, and so alive. It may have another job by now."""
        return uuid in self._processes

    def add(self, uuid: str, pid: int, start_time: int) -> None:
        """Watch the keeper of a job, if the process with this pid has this start time. Idempotent."""
        with self._lock:
            if uuid in self._processes:
                return
            try:
                process = os.pidfd_open(pid)
            except OSError:
                return
            try:
                is_keeper = process_stat(pid).start_time == start_time
            except OSError:
                is_keeper = False
            if not is_keeper:
                os.close(process)
                return
            self._processes[uuid], self._uuids[process] = process, uuid
            self._epoll.register(process, select.EPOLLIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._wait, name="keepers", daemon=True)
                self._thread.start()

    def signal(self, uuid: str, signal_number: int) -> bool:
        """Signal the keeper of a job. Return False if it is not watched.

        Must be called inside `job_files.holding_keeper`.
        """
        with self._lock:
            process = self._processes.get(uuid)
            if process is None:
                return False
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal_number)
            return True

    def remove(self, uuid: str) -> None:
        """Stop watching the keeper of a job. Idempotent."""
        with self._lock:
            process = self._processes.pop(uuid, None)
            if process is not None:
                del self._uuids[process]
                self._epoll.unregister(process)
                os.close(process)

    def close(self) -> None:
        """End the thread and stop watching all keepers. Idempotent."""
        if self._thread is not None:
            os.write(self._close_write, b"!")
            self._thread.join()
            os.read(self._close_read, 1)
            self._thread = None
        for uuid in list(self._processes):
            self.remove(uuid)

    def _wait(self) -> None:
        while True:
            for file, _ in self._epoll.poll():
                if file == self._close_read:
                    return
                uuid = self._uuids.get(file)
                if uuid is not None:
                    self.remove(uuid)
            self._wake()
