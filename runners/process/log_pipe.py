"""The pipe that a job writes to, and its copy in the job's log. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys
import termios
from collections.abc import Sequence

from runners.common.log_times import LogTimes, now_ms
from runners.common.masking import Masker

PIPE_SIZE_BYTES = 1 << 20
CHUNK_BYTES = 1 << 18


class LogPipe:
    """Copies what is written to a pipe into a log file. The writer never has to wait for the disk.

    The keeper holds the only read end and is the only writer of the log, so no other process can cut or overwrite it.
    """

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_end, False)
        with contextlib.suppress(OSError):  # the kernel limits large pipes per account; a small pipe works as well
            fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE_BYTES)
        self._file = -1
        self._limit = self._remaining = 0
        self._start = 0
        """The length of the log when it was opened."""
        self._times: LogTimes | None = None
        self._buffer = memoryview(mmap.mmap(-1, CHUNK_BYTES))
        self._masker: Masker | None = None
        self._dropped = 0
        self._error: str | None = None
        self.message: str | None = None
        """The sentence about dropped bytes, if it could not be written to the log."""

    def open_log(self, path: str, limit: int) -> None:
        """Open the log, and keep at most `limit` bytes from now on. Raises OSError."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._remaining = self._limit = limit
        self._start = os.lseek(self._file, 0, os.SEEK_END)
        self._times = LogTimes(path)

    def mask(self, secrets: Sequence[str]) -> None:
        """Replace these secrets in everything that is copied from now on."""
        if secrets:
            self._masker = Masker(secrets)

    def close(self) -> None:
        """Close the pipe and the log. The write end must have been closed."""
        os.close(self.read_end)
        os.close(self._file)
        if self._times is not None:
            self._times.close()

    def copy(self, max_chunks: int = 16) -> bool:
        """Copy some of what is in the pipe. Return False at its end, when no process can write to it any more."""
        for _ in range(max_chunks):
            try:
                count = os.readv(self.read_end, [self._buffer])
            except BlockingIOError:
                return True
            if not count:
                return False
            self._append(self._buffer[:count])
        return True

    def finish(self) -> None:
        """Complete the log with what is in the pipe now, but nothing that another holder of the pipe writes meanwhile.

        The last line gives the number of bytes that were dropped, if there are any.
        """
        self._drain()
        if self._masker is not None:
            self._write(memoryview(self._masker.flush()))
        self._report_dropped()

    def _drain(self) -> None:
        available = bytearray(4)
        fcntl.ioctl(self.read_end, termios.FIONREAD, available)
        remaining = int.from_bytes(available, sys.byteorder)
        while remaining > 0:
            try:
                count = os.readv(self.read_end, [self._buffer[: min(remaining, CHUNK_BYTES)]])
            except BlockingIOError:
                return
            if not count:
                return
            remaining -= count
            self._append(self._buffer[:count])

    def _report_dropped(self) -> None:
        """Write the number of dropped bytes as the last line of the log, or to `message` if the disk rejects that."""
        if not self._dropped:
            return
        cause = self._error or f"the limit is {self._limit} bytes"
        line = f"polyjob dropped {self._dropped} bytes of this log here: {cause}"
        try:
            os.write(self._file, f"\n{line}\n".encode())
        except OSError:
            self.message = line.replace("this log here", "the log")

    def _append(self, data: memoryview) -> None:
        self._write(data if self._masker is None else memoryview(self._masker.feed(bytes(data))))

    def _write(self, data: memoryview) -> None:
        written = 0
        if self._error is None:
            allowed = min(len(data), self._remaining)
            if self._times is not None and allowed:
                self._times.record(self._start + self._limit - self._remaining, now_ms())
            try:
                while written < allowed:
                    written += os.write(self._file, data[written:allowed])
            except OSError as error:
                self._error = f"writing failed ({os.strerror(error.errno or 0)})"
        self._remaining -= written
        self._dropped += len(data) - written
