"""The process beside a container: creates its namespaces and root folder, runs the command, and writes the log.

Its arguments are `run` or `join`, and a file with a marshalled dictionary. It reads commands from standard input, one
per line: `term`, `kill` and `rotate`; the end of the input means `kill`. It writes events to standard output, one per
line: `started` and `exited` with a number, and `failed` with the literal of a string. Needs root.

There is one such process for each container and each command in one, so this module imports only what is quickly
imported: `signal`, `socket`, `shutil`, `contextlib` and `json` would take longer than everything else that it does.
"""

from __future__ import annotations

import _signal as signal
import ctypes
import errno
import marshal
import os
import select
import sys
import time

NEWNS, NEWUTS, NEWIPC, NEWPID = 0x20000, 0x4000000, 0x8000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
LINE = 16384
"""Longest line of the log in bytes; a longer one is written in parts."""
DEVICES = ("null", "zero", "full", "random", "urandom")

libc = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    if getattr(libc, function)(*arguments) != 0:
        error_number = ctypes.get_errno()
        raise OSError(error_number, f"{function}: {os.strerror(error_number)}")


def mount(source, target, kind=None, flags=0, data=None):
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    call("mount", encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])


def bind(source, target, is_read_only=False):
    """Mount `source` at `target`, which becomes a folder or a file like the source."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    mount(source, target, flags=MS_BIND | MS_REC)
    if is_read_only:
        mount(None, target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def make_root(spec):
    """Mount everything that the container sees below its root folder."""
    root = spec["root"]
    mount(None, "/", flags=MS_REC | MS_PRIVATE)
    os.makedirs(root, exist_ok=True)
    mount(root, root, flags=MS_BIND)
    for name, source in spec["system"].items():
        target = os.path.join(root, name)
        if os.path.islink(source):
            if not os.path.lexists(target):
                os.symlink(os.readlink(source), target)
        else:
            bind(source, target, is_read_only=True)
    for folder, mode in (("tmp", 0o1777), ("root", 0o700), ("run", 0o755), ("var/tmp", 0o1777), ("proc", 0o555)):
        path = os.path.join(root, folder)
        if not os.path.isdir(path):
            os.makedirs(path)
            os.chmod(path, mode)
    for name in DEVICES:
        bind("/dev/" + name, os.path.join(root, "dev", name))
    os.makedirs(os.path.join(root, "dev/shm"), exist_ok=True)
    mount("tmpfs", os.path.join(root, "dev/shm"), "tmpfs", data="mode=1777,size=64m")
    for name, target in (("fd", "/proc/self/fd"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):
        link = os.path.join(root, "dev", name)
        if not os.path.lexists(link):
            os.symlink(target, link)
    for volume in sorted(spec["mounts"], key=lambda volume: volume["path"]):
        bind(volume["source"], root + volume["path"], volume["read_only"])
    bind(spec["termination_log"], root + spec["termination_path"])
    os.makedirs(root + spec["workdir"], exist_ok=True)
    if spec["read_only_root"]:
        mount(None, root, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def enter(spec):
    """Change the root of process 1, or of a process that joins it, to that of the container."""
    os.chroot(spec["root"])
    os.chdir(spec["workdir"])
    for capability in range(64):
        if spec["capabilities"] is not None and capability not in spec["capabilities"]:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups(spec["groups"])
    os.setgid(spec["group"])
    os.setuid(spec["user"])
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if spec["no_new_privileges"]:
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for signal_number in (signal.SIGPIPE, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_DFL)
    os.umask(0o022)


def find_program(name, search_path):
    """Return the path of an executable file, or None."""
    folders = [""] if "/" in name else search_path.split(":")
    paths = (os.path.join(folder, name) for folder in folders)
    return next((path for path in paths if os.access(path, os.X_OK) and not os.path.isdir(path)), None)


def execute(command, env, complaint):
    """Execute the command. An error is written to `complaint`."""
    try:
        path = find_program(command[0], env.get("PATH", os.defpath))
        if path is None:
            message = "stat" if "/" in command[0] else "executable file not found in $PATH"
            if message == "stat":
                exists = os.path.exists(command[0])
                message = f"stat {command[0]}: no such file or directory" if not exists else "permission denied"
            raise OSError(errno.ENOENT, f'exec: "{command[0]}": {message}')
        os.execve(path, command, env)
    except OSError as error:
        os.write(complaint, (error.strerror or str(error)).encode())
    os._exit(127)


def start(spec):
    """Fork process 1. Return (pid, stdout, stderr, complaint); the last three are reading ends of pipes."""
    call("unshare", NEWNS | NEWUTS | NEWIPC | NEWPID)
    hostname = spec["hostname"].encode()
    call("sethostname", hostname, len(hostname))
    make_root(spec)
    pipes = [os.pipe() for _ in range(3)]
    pid = os.fork()
    if pid == 0:
        complaint = pipes[2][1]
        try:
            os.setsid()
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(pipes[0][1], 1)
            os.dup2(pipes[1][1], 2)
            mount("proc", os.path.join(spec["root"], "proc"), "proc", MS_NOSUID)
            enter(spec)
        except BaseException as error:
            os.write(complaint, str(error).encode())
            os._exit(127)
        execute(spec["command"], spec["env"], complaint)
    for _, end in pipes:
        os.close(end)
    return pid, pipes[0][0], pipes[1][0], pipes[2][0]


class Log:
    """The container's log file in the CRI's format: `<time> <stream> <F|P> <line>`, rotated at a size."""

    def __init__(self, path, limit):
        self.path = path
        self.limit = limit
        self.rests = {"stdout": b"", "stderr": b""}
        self.open()

    def open(self):
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self.size = os.fstat(self.file).st_size

    def rotate(self):
        """Rotate the file. There is a file of that name at every moment."""
        if os.path.exists(f"{self.path}.1"):
            os.unlink(f"{self.path}.1")
        os.link(self.path, f"{self.path}.1")
        os.close(os.open(f"{self.path}.new", os.O_CREAT | os.O_WRONLY, 0o640))
        os.replace(f"{self.path}.new", self.path)
        os.close(self.file)
        self.open()

    def feed(self, stream, data):
        *lines, rest = (self.rests[stream] + data).split(b"\n")
        out = []
        for line in lines:
            out += self.entries(stream, line.removesuffix(b"\r"), b"F")  # as containerd does
        while len(rest) > LINE:
            out.append(self.entry(stream, rest[:LINE], b"P"))
            rest = rest[LINE:]
        self.rests[stream] = rest
        self.write(out)

    def end(self, stream):
        """Write a last line without an end as a partial line."""
        if self.rests[stream]:
            self.write([self.entry(stream, self.rests[stream], b"P")])
            self.rests[stream] = b""

    def entries(self, stream, line, tag):
        out = []
        while len(line) > LINE:
            out.append(self.entry(stream, line[:LINE], b"P"))
            line = line[LINE:]
        return [*out, self.entry(stream, line, tag)]

    def entry(self, stream, line, tag):
        """Return the log entries of a line. Each has its own timestamp, as with containerd."""
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return b"%s.%09dZ %s %s %s\n" % (moment.encode(), nanoseconds, stream.encode(), tag, line)

    def write(self, entries):
        for text in entries:
            if self.limit and self.size and self.size + len(text) > self.limit:
                self.rotate()
            self.size += len(text)
            while text:
                text = text[os.write(self.file, text) :]


def report(event, value):
    try:
        os.write(1, f"{event} {value!a}\n".encode())
    except BrokenPipeError:
        return


def run(spec):
    """Run the container to its end, and report it."""
    log = Log(spec["log"], spec["log_limit"])  # it exists before the start is reported
    pid, out, err, complaint = start(spec)
    message = b""
    while chunk := os.read(complaint, 4096):
        message += chunk
    if message:
        os.waitpid(pid, 0)
        return report("failed", message.decode(errors="replace"))
    report("started", pid)
    ended = os.pidfd_open(pid)
    open_streams = {out: "stdout", err: "stderr"}
    commands = b""
    watched = {0, ended, *open_streams}
    while open_streams:
        for ready in select.select(list(watched), [], [])[0]:
            if ready == ended:
                watched.discard(ended)
            elif ready == 0:
                data = os.read(0, 4096)
                *words, commands = (commands + data).split(b"\n")
                if not data:
                    watched.discard(0)
                    words = [b"kill"]
                for word in words:
                    obey(word, pid, log)
            else:
                data = os.read(ready, 1 << 18)
                if data:
                    log.feed(open_streams[ready], data)
                    continue
                log.end(open_streams.pop(ready))
                watched.discard(ready)
    while ended in watched:
        ready = select.select(list(watched), [], [])[0]
        if ended in ready:
            break
        data = os.read(0, 4096)
        for word in data.split(b"\n") if data else [b"kill"]:
            obey(word, pid, log)
        if not data:
            watched.discard(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return report("exited", status if status >= 0 else 128 - status)


def obey(word, pid, log):
    if word == b"rotate":
        return log.rotate()
    signal_number = {b"term": signal.SIGTERM, b"kill": signal.SIGKILL}.get(word)
    if signal_number:
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            return None
    return None


def join(spec):
    """Run another command in the container of process `spec["pid"]`, with the three streams of this process.

    Ends as the command ended: exit code, or 128 + the signal. What hinders its start goes to the file named by
    `spec["complaint"]`.
    """
    complaint = os.open(spec["complaint"], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    try:
        for kind in ("pid", "mnt", "uts", "ipc"):
            handle = os.open(f"/proc/{spec['pid']}/ns/{kind}", os.O_RDONLY)
            call("setns", handle, 0)
            os.close(handle)
    except OSError as error:
        os.write(complaint, f"container is not running: {error.strerror}".encode())
        os._exit(126)
    try:
        pid = os.fork()
    except OSError:  # the container's process 1 has ended meanwhile
        os._exit(137)
    if pid == 0:
        try:
            os.setsid()
            enter(spec)
        except BaseException as error:
            os.write(complaint, str(error).encode())
            os._exit(127)
        execute(spec["command"], spec["env"], complaint)
    for stream in (0, 1, 2):
        os.close(stream)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


def main():
    with open(sys.argv[2], "rb") as file:
        spec = marshal.load(file)
    if sys.argv[1] == "run":
        run(spec)
    else:
        join(spec)
