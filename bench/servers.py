"""Start polyjob from a checkout, and observe its processes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.client import Client, Connection, prepare, status_of

ROOT = Path(__file__).resolve().parent.parent
SLOTS = 2
START_SECONDS = 60.0
STOP_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Checkout:
    """A checkout of polyjob, and the Python of its own virtualenv."""

    path: Path

    @property
    def python(self) -> str:
        own = self.path / ".venv/bin/python"
        if own.exists():
            return str(own)
        if self.path == ROOT:
            return sys.executable
        raise SystemExit(f"{self.path} has no .venv; run `make run` there once")

    @property
    def commit(self) -> str:
        command = ["git", "-C", str(self.path), "describe", "--always", "--dirty"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        return found.stdout.strip() or "unknown"


@dataclasses.dataclass
class Server:
    """A running server. Every process of it has the data folder in its command line or environment."""

    port: int
    data: Path
    start_ms: float
    """Time from the start of the command to the first 200."""

    @property
    def token(self) -> str:
        return (self.data / "root-token").read_text().strip()

    def sign_in(self) -> dict[str, str]:
        """Use the sign-in link of the greeting, and return the headers of a browser that is signed in."""
        links = re.findall(r"/sign-in/\S+", log_of(self.data).read_text())
        connection = Connection(self.port)
        head = connection.exchange(prepare("GET", links[-1])).partition(b"\r\n\r\n")[0].decode()
        connection.close()
        return {"Cookie": "; ".join(re.findall(r"^Set-Cookie: ([^;]+)", head, re.MULTILINE | re.IGNORECASE))}

    def client(self) -> Client:
        return Client(self.port, self.token)

    def processes(self) -> list[int]:
        return processes_with(str(self.data))

    def cpu_seconds(self) -> float:
        """Return the CPU time of all processes, with that of children that have ended."""
        return sum(map(cpu_of, self.processes()))

    def engine(self) -> int:
        return int(json.loads((self.data / "engine.json").read_text())["pid"])


@contextlib.contextmanager
def serve(checkout: Checkout, data: Path, runner: str = "process", **settings: str) -> Iterator[Server]:
    """Run a server until the end of the block. Jobs that still run then are killed."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POLYJOB_")}
    settings = {"slots": str(SLOTS), "data_dir": str(data), "runner": runner, **settings}
    environment |= {f"POLYJOB_{name.upper()}": value for name, value in settings.items()}
    command = [checkout.python, "-m", "polyjob", "serve", "--port", str(port)]
    log = log_of(data)
    with running(command, environment, checkout.path, log) as process:
        try:
            start_ms = await_ok(process, port, "/healthz", log)
            await_ok(process, port, "/readyz", log)
            yield Server(port, data, start_ms)
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            for pid in processes_with(str(data)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def log_of(data: Path) -> Path:
    """Return the file with the output of the server of a data folder."""
    return data.with_name(f"{data.name}.log")


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: dict[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the end of the block, with its output in a file."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_SECONDS)


def await_ok(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> float:
    """Request a path until the response is 200. Return the milliseconds that this took."""
    request = prepare("GET", path)
    started = time.perf_counter()
    while time.perf_counter() - started < START_SECONDS and process.poll() is None:
        with contextlib.suppress(OSError):
            connection = Connection(port)
            try:
                if status_of(connection.exchange(request)) == 200:
                    return (time.perf_counter() - started) * 1000
            finally:
                connection.close()
        time.sleep(0.005)
    raise RuntimeError(f"{path} did not answer 200:\n{log.read_text()}")


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="polyjob-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def processes_with(text: str) -> list[int]:
    """Return the processes with a text in their command line or environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return [pid for pid in found if pid != os.getpid()]


def cpu_of(pid: int) -> float:
    """Return the seconds that a process and its ended children have computed, 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def precise_cpu_of(pid: int) -> float:
    """Return the seconds that the threads of a process have computed, by the nanosecond. Ended threads do not count."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(path.read_text().split()[0])
    return total / 1e9


def pss_of(pids: Sequence[int]) -> float:
    """Return the memory of processes in MB. Pages that several share count once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found.group(1)) if found else 0
    return total * 1024 / 1e6
