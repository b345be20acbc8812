"""The command line against a real server, as scripts and people use it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import JOBS, ROOT, Server, eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("cli"), slots="3") as started:
        yield started


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "polyjob", *arguments]


def environment(server: Server, **more: str) -> dict[str, str]:
    return server.environment | {"POLYJOB_DATA_DIR": str(server.data_dir)} | more


def polyjob(server: Server, *arguments: str, data: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments), input=data, capture_output=True, timeout=60, env=environment(server, **more), cwd=ROOT
    )


def printed(server: Server, *arguments: str) -> Any:
    done = polyjob(server, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_run_shows_the_output_and_ends_with_the_jobs_code(server: Server) -> None:
    done = polyjob(server, "run", "--", r"printf 'a\377\000\r\n'; echo b >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, b"a\xff\x00\r\nb\n")
    assert b"failed: exit-code(7)" in done.stderr


def test_several_words_stay_as_they_are(server: Server) -> None:
    done = polyjob(server, "run", "--", sys.executable, "-c", 'print("a  b")')
    assert (done.returncode, done.stdout) == (0, b"a  b\n")


def test_signals_and_failed_builds_have_codes_of_their_own(server: Server) -> None:
    assert polyjob(server, "run", "--", "kill -9 $$").returncode == 137
    done = polyjob(server, "run", "--step", "echo making >&2; exit 3", "--", "echo never")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"making" in done.stderr
    assert b"step 1 ended with exit code 3" in done.stderr


def test_a_build_shows_on_the_error_side_and_is_reused_in_silence(server: Server) -> None:
    arguments = ["run", "--step", "echo making", "-e", "X=1 2", "--", "echo $X"]
    first, second = polyjob(server, *arguments), polyjob(server, *arguments)
    assert (first.stdout, second.stdout) == (b"1 2\n", b"1 2\n")
    assert b"making" in first.stderr
    assert b"making" not in second.stderr


def test_file_at_fault_is_named_by_each_command(server: Server, tmp_path: Path) -> None:
    number = str(server.submit("true")["id"])
    file = tmp_path / "job.yml"
    file.write_text("run: {cmd: x}\nenvironment: {resources: {cpu: {limits: z}}}\n")
    said = f"{file}: environment.resources.cpu.limits: ".encode()
    for command in (["run"], ["restart", number], ["copy", number, "--param", "a=1"]):
        done = polyjob(server, *command, "-f", str(file), "-e", "A=1")
        assert (done.returncode, said in done.stderr) == (125, True), done.stderr


def test_what_the_server_refuses_is_said_field_by_field(server: Server) -> None:
    done = polyjob(server, "run", "-i", "a b", "-e", "1=2", "--", "x")
    assert done.returncode == 125
    assert b"--image: Invalid docker image `a b`;" in done.stderr
    assert b"--env: " in done.stderr
    assert polyjob(server, "show", "98765").returncode == 1
    assert b"POLYJOB_TOKEN" in polyjob(server, "ls", POLYJOB_TOKEN="x").stderr


def test_detached_jobs_are_waited_for_looked_at_and_listed(server: Server) -> None:
    done = polyjob(server, "run", "-d", "--name", "named", "--tag", "t", "--", "echo x; exit 4")
    number = done.stdout.decode().strip()
    assert number.isdecimal()
    assert polyjob(server, "wait", number).returncode == 4
    assert polyjob(server, "wait", "--timeout", "0", number).returncode == 4
    assert polyjob(server, "logs", number).stdout == b"x\n"
    shown = printed(server, "show", number, "--json")
    assert (shown["name"], shown["tags"], shown["exit_code"]) == ("named", ["t"], 4)
    text = polyjob(server, "show", f"root.quick-start.jobs.{number}").stdout.decode()
    assert "named" in text and "exit code  4" in text
    assert [job["id"] for job in printed(server, "ls", "--query", "name:named", "--json")] == [int(number)]
    assert "named" in polyjob(server, "ls", "--all", NO_COLOR="1").stdout.decode()
    assert [row["status"] for row in printed(server, "statuses", number, "--json")][-1] == "failed"
    assert b"exit-code(4)" in polyjob(server, "statuses", number).stdout
    assert b"\x1b" not in polyjob(server, "ls").stdout


def test_logs_are_followed_and_cut(server: Server) -> None:
    number = str(server.submit("seq 5; sleep 0.5; echo last")["id"])
    followed = polyjob(server, "logs", "-f", number)
    assert followed.stdout == b"1\n2\n3\n4\n5\nlast\n"
    assert b"succeeded" in followed.stderr
    assert polyjob(server, "logs", "-n", "2", number).stdout == b"5\nlast\n"
    assert polyjob(server, "logs", "-f", "-n", "1", number).stdout == b"last\n"


def test_clones(server: Server, tmp_path: Path) -> None:
    number = str(server.submit('echo "$V"; echo more >> $POLYAXON_RUN_OUTPUTS_PATH/f')["id"])
    server.until_done(int(number))
    assert polyjob(server, "restart", number, "-e", "V=new").stdout == b"new\n"
    patch = tmp_path / "patch.yml"
    patch.write_text("run: {cmd: 'cat $POLYAXON_RUN_OUTPUTS_PATH/f'}\n")
    assert polyjob(server, "resume", number, "-f", str(patch)).stdout == b"more\n"
    patch.write_text("run: {cmd: 'echo $V $W'}\nenvironment: {env_vars: {V: 1}}\n")
    assert polyjob(server, "restart", number, "-f", str(patch), "-e", "W=2").stdout == b"1 2\n"
    made = polyjob(server, "copy", "-d", number).stdout.decode().strip()
    assert printed(server, "show", made, "--json")["cloning_strategy"] == "copy"
    assert polyjob(server, "wait", made).returncode == 0


def test_outputs(server: Server, tmp_path: Path) -> None:
    number = str(server.submit("cd $POLYAXON_RUN_OUTPUTS_PATH; mkdir d; printf ab > d/f; printf x > g")["id"])
    server.until_done(int(number))
    assert printed(server, "outputs", number, "--json") == [{"path": "d/f", "size": 2}, {"path": "g", "size": 1}]
    assert b"2 B  d/f" in polyjob(server, "outputs", number, "--tree", "d").stdout
    assert polyjob(server, "outputs", number, "d/f").stdout == b"ab"
    target = tmp_path / "all.tar.gz"
    assert polyjob(server, "outputs", number, "-o", str(target)).returncode == 0
    with tarfile.open(target) as archive:
        assert f"{number}/d/f" in archive.getnames()
    piped = polyjob(server, "outputs", number, "-o", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(piped)) as archive:
        assert f"{number}/g" in archive.getnames()
    assert polyjob(server, "outputs", number, "none").returncode == 1
    assert list(tmp_path.iterdir()) == [target]
    target.unlink()
    assert polyjob(server, "outputs", number, "d", "-o", str(target)).returncode == 0
    with tarfile.open(target) as archive:
        assert archive.getnames() == [f"{number}/d", f"{number}/d/f"]
    for folder in (tmp_path, f"{tmp_path}/new/"):
        assert polyjob(server, "outputs", number, "-o", str(folder)).returncode == 0
        assert polyjob(server, "outputs", number, "d/f", "-o", str(folder)).returncode == 0
    for folder in (tmp_path, tmp_path / "new"):
        assert (folder / "f").read_bytes() == b"ab"
        assert tarfile.is_tarfile(folder / f"quick-start-{number}.tar.gz")


def test_output_of_any_name_is_printed(server: Server, tmp_path: Path) -> None:
    names = ["日本語.txt", "caf\udce9.txt", "line\nfeed"]
    script = "cd $POLYAXON_RUN_OUTPUTS_PATH; mkdir $(printf 'dir\\377'); printf in > $(printf 'dir\\377')/f; "
    script += "printf 1 > 日本語.txt; printf 2 > $(printf 'caf\\351.txt'); printf 3 > \"$(printf 'line\\nfeed')\""
    number = str(server.submit(script)["id"])
    server.until_done(int(number))
    listed = [entry["path"] for entry in printed(server, "outputs", number, "--json")]
    assert listed == ["caf%E9.txt", "dir%FF/f", "line%0Afeed", "日本語.txt"]
    asked = [*names, *listed, "dir\udcff/f"]
    contents = [polyjob(server, "outputs", number, name).stdout for name in asked]
    assert contents == [b"1", b"2", b"3", b"2", b"in", b"3", b"1", b"in"]
    for folder in ("dir\udcff", "dir%FF"):
        done = polyjob(server, "outputs", number, folder, "-o", "-")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            assert [member.name for member in archive if member.isfile()] == [f"{number}/dir\udcff/f"]


def test_outputs_whose_names_look_alike_are_told_apart(server: Server) -> None:
    script = "cd $POLYAXON_RUN_OUTPUTS_PATH; for name in $(printf 'caf\\351') caf%E9; do "
    number = str(
        server.submit(script + "printf %s $name > $name; mkdir in-$name; printf %s $name > in-$name/f; done")["id"]
    )
    server.until_done(int(number))
    listed = [entry["path"] for entry in printed(server, "outputs", number, "--json")]
    assert listed == ["caf%25E9", "caf%E9", "in-caf%25E9/f", "in-caf%E9/f"]
    contents = [polyjob(server, "outputs", number, name).stdout for name in listed]
    assert contents == [b"caf%E9", b"caf\xe9"] * 2
    for folder, content in (("in-caf%E9", b"caf\xe9"), ("in-caf%25E9", b"caf%E9")):
        done = polyjob(server, "outputs", number, folder, "-o", "-")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            found = [archive.extractfile(member) for member in archive if member.isfile()]
            assert [file.read() for file in found if file] == [content]


def test_job_without_outputs_saves_nothing(server: Server, tmp_path: Path) -> None:
    number = str(server.submit("true")["id"])
    server.until_done(int(number))
    done = polyjob(server, "outputs", number, "-o", str(tmp_path / "all.tar.gz"))
    assert (done.returncode, b"has no outputs" in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [[], ["f"]])
def test_outputs_go_into_an_existing_pipe(server: Server, done_job: str, tmp_path: Path, path: list[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    done = polyjob(server, "outputs", done_job, *path, "-o", str(pipe))
    content = reader.communicate(timeout=60)[0]
    assert (done.returncode, list(tmp_path.iterdir())) == (0, [pipe])
    assert pipe.is_fifo()
    assert content == b"x\n" if path else tarfile.is_tarfile(io.BytesIO(content))


def test_root_of_outputs_is_all_of_them(server: Server, done_job: str, tmp_path: Path) -> None:
    assert polyjob(server, "outputs", done_job, "/", "-o", f"{tmp_path}/").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"quick-start-{done_job}.tar.gz"]


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["projects", "create", "a b"], "name"),
        (["token", "create", ""], "name"),
        (["user", "create", "a b"], "username"),
        (["ls", "--query", "statuss:failed"], "query"),
    ],
)
def test_errors_name_fields_without_json_pointers(server: Server, words: list[str], field: str) -> None:
    done = polyjob(server, *words)
    assert done.stderr.startswith(f"polyjob: {field}: ".encode())


def test_folder_of_large_outputs_is_complete(server: Server, tmp_path: Path) -> None:
    files = "mkdir d; for i in $(seq 30); do head -c 100000 /dev/urandom > d/$i; done; cp -r d e"
    number = str(server.submit(f"cd $POLYAXON_RUN_OUTPUTS_PATH; {files}")["id"])
    server.until_done(int(number))
    assert polyjob(server, "outputs", number, "e", "-o", str(tmp_path / "e.tar.gz")).returncode == 0
    with tarfile.open(tmp_path / "e.tar.gz") as archive:
        assert sum(member.size for member in archive) == 3_000_000


@pytest.fixture(scope="module")
def done_job(server: Server) -> str:
    number = str(server.submit("seq 100; echo x > $POLYAXON_RUN_OUTPUTS_PATH/f")["id"])
    server.until_done(int(number))
    return number


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "--", "echo hi"], 125),
        (["run", "-d", "--", "true"], 125),
        (["logs", "JOB"], 1),
        (["logs", "-f", "JOB"], 1),
        (["ls"], 1),
        (["ls", "--json"], 1),
        (["show", "JOB"], 1),
        (["outputs", "-o", "-", "JOB"], 1),
        (["outputs", "JOB", "f"], 1),
        (["doctor"], 1),
        (["--help"], 1),
    ],
)
def test_full_output_disk_ends_the_command_with_one_line(
    server: Server, done_job: str, words: list[str], code: int
) -> None:
    arguments = [done_job if word == "JOB" else word for word in words]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*arguments), stdout=full, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=60,
            env=environment(server), cwd=ROOT,
        )  # fmt: skip
    assert (done.returncode, b"No space left on device" in done.stderr) == (code, True), done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_full_standard_error_changes_no_exit_code(server: Server) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("run", "-d", "true"), stdout=subprocess.PIPE, stderr=full, stdin=subprocess.DEVNULL, timeout=60,
            env=environment(server), cwd=ROOT,
        )  # fmt: skip
    assert (done.returncode, done.stdout.strip().isdigit()) == (0, True)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("words", "code"),
    [("run -- 'exit 5'", 5), ("run --step true -- 'exit 5'", 5), ("ls", 0), ("run -d -- true", 0), ("run -f -", 125)],
)
def test_closed_stream_counts_as_dev_null(server: Server, closed: str, words: str, code: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m polyjob {words} {closed}"], stdin=subprocess.DEVNULL,
        capture_output=True, timeout=60, env=environment(server), cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["ls", "-p", "nope"], "project `root/nope`"),
        (["run", "-p", "nobody/x", "true"], "project `nobody/x`"),
        (["projects", "delete", "-y", "nope"], "project `root/nope`"),
        (["show", "98765"], "job 98765"),
        (["logs", "-b", "98765"], "build 98765"),
        (["projects", "ls", "-u", "nobody"], "user `nobody`"),
    ],
)
def test_missing_object_is_named(server: Server, words: list[str], named: str) -> None:
    done = polyjob(server, *words)
    assert done.returncode in (1, 125)
    assert named in done.stderr.decode()


def test_name_of_an_output_cannot_control_the_terminal(server: Server) -> None:
    number = str(
        server.submit(r"""cd $POLYAXON_RUN_OUTPUTS_PATH; touch "$(printf 'a\n1.0 GB forged\033[31m')" """)["id"]
    )
    server.until_done(int(number))
    done = polyjob(server, "outputs", number, "--tree")
    assert b"\x1b" not in done.stdout
    assert done.stdout.count(b"\n") == 1


def test_code_is_uploaded(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("code\n")
    (tmp_path / "b.log").write_text("no\n")
    (tmp_path / ".gitignore").write_text("*.log\n")
    done = polyjob(server, "run", "-p", "uploaded", "-u", str(tmp_path), "--", "cat a.txt; ls")
    assert (done.returncode, done.stdout) == (0, b"code\na.txt\n")
    assert b"Made the project root.uploaded." in done.stderr
    assert b"Uploaded 2 files" in done.stderr


def test_stop_and_delete(server: Server) -> None:
    numbers = [str(server.submit("sleep 600")["id"]) for _ in range(2)]
    assert polyjob(server, "stop", "--wait", *numbers).returncode == 0
    assert [server.job(int(number))["last_status"] for number in numbers] == ["stopped", "stopped"]
    assert polyjob(server, "delete", *numbers).returncode == 0
    assert polyjob(server, "show", numbers[0]).returncode == 1


@pytest.mark.parametrize(("trap", "code"), [("true", 143), ("trap 'exit 7' TERM", 7), ("trap 'exit 0' TERM", 125)])
def test_wait_tells_how_a_job_that_somebody_stopped_has_ended(server: Server, trap: str, code: int) -> None:
    number = server.submit(f"{trap}; touch $POLYAXON_RUN_OUTPUTS_PATH/ready; while :; do sleep 0.1; done")["id"]
    eventually(lambda: b"ready" in server.call("GET", f"{JOBS}/{number}/outputs/tree").body)
    assert server.call("POST", f"{JOBS}/{number}/stop").status == 200
    done = polyjob(server, "wait", str(number))
    assert (done.returncode, b"stopped" in done.stderr) == (code, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_terminal_a_signal_stops_the_job(server: Server, number: int) -> None:
    process = subprocess.Popen(
        command("run", "--", "trap 'echo bye; exit 5' TERM; echo begun; while :; do sleep 0.1; done"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(server), cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out.endswith(b"bye\n")
    assert b"begun" not in out
    assert b"stopped" in err


@pytest.mark.parametrize("pause", [0.0, 0.005, 0.02, 0.1])
def test_many_signals_stop_the_job_as_one_does(server: Server, pause: float) -> None:
    process = subprocess.Popen(
        command("run", "--", "trap 'sleep 0.5; exit 5' TERM; echo begun; while :; do sleep 0.1; done"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(server), cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    for number in [signal.SIGTERM, signal.SIGINT] * 4:
        process.send_signal(number)
        time.sleep(pause)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert err.count(b"Stopping") == 1


def is_connected(pid: int) -> bool:
    """Whether it has come so far as to talk to the server: an interpreter on a busy machine takes its time."""
    with contextlib.suppress(OSError):
        return any(os.readlink(file).startswith("socket:") for file in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_a_ctrl_c_ends_waiting_with_its_code(server: Server) -> None:
    number = str(server.submit("sleep 600")["id"])
    heard = ["env", "--default-signal=INT"]  # who started the tests in the background has it ignored
    with subprocess.Popen(
        [*heard, *command("wait", number)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(server), cwd=ROOT,
    ) as process:  # fmt: skip
        try:
            eventually(lambda: is_connected(process.pid))
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, b"Traceback" in err) == (130, False)
    assert server.job(int(number))["last_status"] == "running"
    assert polyjob(server, "stop", number).returncode == 0


def test_a_reader_that_leaves_is_told_that_the_job_goes_on(server: Server) -> None:
    process = subprocess.Popen(
        command("run", "--", "echo begun; while sleep 0.1; do echo more; done"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(server), cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"begun\n"
    process.stdout.close()
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(30) == 1
    name = err.rpartition("polyjob logs -f ")[2].strip()
    assert name.startswith("root.quick-start.jobs."), err
    assert polyjob(server, "stop", name).returncode == 0


def on_terminal(server: Server, *arguments: str) -> tuple[int, int]:
    """(pid, the terminal's other side) of a command that has a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(sys.executable, command(*arguments), environment(server))
    return pid, terminal


def read_until(terminal: int, word: bytes, seconds: float = 30) -> bytes:
    seen, deadline = b"", time.monotonic() + seconds
    while word not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):
                seen += os.read(terminal, 4096)
    assert word in seen, seen
    return seen


@pytest.mark.parametrize(
    ("reply", "code", "status"),
    [(b"d\n", 0, "running"), (b"s\n", 130, "stopped"), (b"\x03", 130, "stopped"), (b"stop\n", 130, "stopped")],
)
def test_on_a_terminal_ctrl_c_asks(server: Server, reply: bytes, code: int, status: str) -> None:
    pid, terminal = on_terminal(server, "run", "--", "echo begun; sleep 600")
    try:
        read_until(terminal, b"begun\r\n")
        os.write(terminal, b"\x03")
        read_until(terminal, b"watching? ")
        os.write(terminal, reply)
        read_until(terminal, b"goes on" if code == 0 else b"stopped")
        _, ended = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(ended) == code
    job = server.call("GET", "/api/v1/root/quick-start/jobs?limit=1&sort=-created_at").json["results"][0]
    assert job["last_status"] == status
    server.call("POST", f"/api/v1/root/quick-start/jobs/{job['id']}/stop")


@pytest.mark.parametrize("reply", [b"n\n", b"no\n", b"x\n", b"\n", b"stopp\n", b"yes\n"])
def test_unknown_answer_is_asked_for_again(server: Server, reply: bytes) -> None:
    pid, terminal = on_terminal(server, "run", "--", "echo begun; sleep 600")
    try:
        read_until(terminal, b"begun\r\n")
        os.write(terminal, b"\x03")
        read_until(terminal, b"watching? ")
        os.write(terminal, reply)
        read_until(terminal, b"watching? ")
        os.write(terminal, b"d\n")
        read_until(terminal, b"goes on")
        os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    job = server.call("GET", "/api/v1/root/quick-start/jobs?limit=1&sort=-created_at").json["results"][0]
    assert job["last_status"] == "running"
    server.call("POST", f"/api/v1/root/quick-start/jobs/{job['id']}/stop")


def test_kept_job_is_shown_to_its_end(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    command = f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; echo last; exit 4"
    pid, terminal = on_terminal(server, "run", "--", command)
    try:
        read_until(terminal, b"begun\r\n")
        os.write(terminal, b"\x03")
        read_until(terminal, b"watching? ")
        os.write(terminal, b"k\n")
        gate.touch()
        read_until(terminal, b"last\r\n")
        read_until(terminal, b"exit-code(4)")
        _, ended = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(ended) == 4


def test_a_third_ctrl_c_leaves_a_job_that_is_slow_to_stop(server: Server) -> None:
    pid, terminal = on_terminal(server, "run", "--", "trap 'sleep 5' TERM; echo begun; while :; do sleep 0.1; done")
    try:
        read_until(terminal, b"begun\r\n")
        for said in (b"watching? ", b"Stopping", b"Leaving"):
            os.write(terminal, b"\x03")
            read_until(terminal, said)
        _, ended = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(ended) == 130
    job = server.call("GET", "/api/v1/root/quick-start/jobs?limit=1&sort=-created_at").json["results"][0]
    assert polyjob(server, "stop", "--wait", str(job["id"])).returncode == 0


def test_colour_is_for_terminals_that_want_it(server: Server) -> None:
    server.until_done(server.submit("true")["id"])
    pid, terminal = on_terminal(server, "ls", "-n", "1")
    assert b"\x1b[" in read_until(terminal, b"root\r\n")
    os.waitpid(pid, 0)
    os.close(terminal)


def test_run_goes_on_where_a_dead_server_left_it(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        _run_on(server)


def _run_on(server: Server) -> None:
    process = subprocess.Popen(
        command("run", "--", "echo one; sleep 4; echo two; exit 3"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(server), cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"one\n"
    server.kill()
    server.start()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, b"two\n"), err


def test_projects(server: Server) -> None:
    assert polyjob(server, "projects", "create", "p1", "-d", "words", "--public").stdout == b"root.p1\n"
    assert printed(server, "projects", "show", "p1", "--json")["is_public"] is True
    assert b"words" in polyjob(server, "projects", "ls").stdout
    assert polyjob(server, "projects", "update", "p1", "--name", "p2", "--private").stdout == b"root.p2\n"
    assert b"root.p2" in polyjob(server, "projects", "show", "p2").stdout
    for verb in ("archive", "restore", "delete"):
        assert polyjob(server, "projects", verb, "p2").returncode == 0
    assert "root.p2" not in [row["unique_name"] for row in printed(server, "projects", "ls", "--json")]


def test_keys(server: Server) -> None:
    key = (
        polyjob(server, "token", "create", "ci", "--scope", "read", "-p", "quick-start", "--days", "1")
        .stdout.decode()
        .strip()
    )
    assert polyjob(server, "ls", POLYJOB_TOKEN=key).returncode == 0
    assert b"takes `submit`" in polyjob(server, "run", "--", "true", POLYJOB_TOKEN=key).stderr
    row = next(row for row in printed(server, "token", "ls", "--json") if row["name"] == "ci")
    assert b"ci" in polyjob(server, "token", "ls").stdout
    assert polyjob(server, "token", "revoke", str(row["id"])).returncode == 0
    assert polyjob(server, "ls", POLYJOB_TOKEN=key).returncode == 1
    link = polyjob(server, "token", "link").stdout.decode().strip()
    assert link.startswith(f"http://127.0.0.1:{server.port}/sign-in/")
    assert server.call("GET", link.partition(str(server.port))[2]).status == 303


def test_users(server: Server) -> None:
    assert polyjob(server, "user", "create", "bob", data=b"a long password\n").stdout == b"bob\n"
    assert polyjob(server, "user", "create", "eva", "--no-password", "--admin").returncode == 0
    assert [row["username"] for row in printed(server, "user", "ls", "--json")] == ["bob", "eva", "root"]
    for verb in ("deactivate", "activate", "grant", "revoke"):
        assert polyjob(server, "user", verb, "bob").returncode == 0
    assert polyjob(server, "user", "password", "bob", data=b"a longer password\n").returncode == 0
    assert b"bob" in polyjob(server, "user", "ls").stdout
    for name in ("bob", "eva"):
        assert polyjob(server, "user", "delete", name).returncode == 0


def test_doctor(server: Server) -> None:
    done = polyjob(server, "doctor")
    assert done.returncode == 0, done.stdout
    assert b"engine" in done.stdout
    found = {row["part"]: row for row in printed(server, "doctor", "--json")}
    assert found["isolation"]["ok"] is True
    assert found["build python"]["text"] == sys.executable
    bad = polyjob(server, "doctor", POLYJOB_TOKEN="x")
    assert bad.returncode == 1
    assert b"BAD" in bad.stdout


def test_the_address_of_the_server_is_left_for_commands(server: Server) -> None:
    assert (server.data_dir / "address").read_text() == f"http://127.0.0.1:{server.port}\n"
    assert eventually(lambda: polyjob(server, "ls").returncode == 0)
