"""Commands in running containers: both protocols, bytes in and out, exit codes, and connections that break."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any

import pytest
from kubernetes.client import ApiException
from kubernetes.stream import stream

from tests.simulators.kubernetes.conftest import manifest, wait_for
from tests.simulators.kubernetes.execution import V4, V5


@pytest.fixture
def pod(cluster: Any, api: Any) -> None:
    """Create a running pod with a folder /data."""
    described = manifest(volumes=[{"name": "data", "emptyDir": {}}])
    described["spec"]["containers"][0] |= {
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "env": [{"name": "A", "value": "1"}],
        "workingDir": "/data",
    }
    api.create_namespaced_pod("default", described)
    wait_for(lambda: cluster.pod("pod")["status"]["phase"] == "Running")


def run(api: Any, *command: str, stdin: bool = False, protocol: str | None = None, **options: Any) -> Any:
    """Run a command, and return the open connection."""
    given = {"stdin": stdin, "stdout": True, "stderr": True, "tty": False, "binary": True, **options}
    if protocol:
        given["_headers"] = {"sec-websocket-protocol": protocol}
    return stream(
        api.connect_get_namespaced_pod_exec, "pod", "default", command=list(command), _preload_content=False, **given
    )


def finish(connection: Any) -> tuple[bytes, bytes, dict[str, Any]]:
    """Return (standard output, standard error, status) of a command once it has ended."""
    connection.run_forever(timeout=20)
    out, error, status = (connection.read_channel(channel) for channel in (1, 2, 3))
    connection.sock.shutdown()  # the client leaves it open once the other side has closed
    return out, error, json.loads(status or b"{}")


@pytest.mark.parametrize("protocol", [V4, V5, None])
def test_streams_and_exit_code(api: Any, pod: None, protocol: str | None):
    connection = run(api, "sh", "-c", "echo out $A; pwd; echo error >&2; exit 3", protocol=protocol)
    assert connection.subprotocol == (protocol or V5)
    out, error, status = finish(connection)
    assert (out, error) == (b"out 1\n/data\n", b"error\n")
    assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]


def test_successful_command_reports_success(api: Any, pod: None):
    assert finish(run(api, "true")) == (b"", b"", {"metadata": {}, "status": "Success"})


def test_v5_can_end_standard_input(api: Any, pod: None):
    """Only v5 can close the input. All bytes before arrive unchanged."""
    data = os.urandom(3_000_000)
    connection = run(api, "sh", "-c", "cat >/data/file; sha256sum </data/file", stdin=True)
    for begin in range(0, len(data), 100_000):
        connection.write_stdin(data[begin : begin + 100_000])
    connection.close_channel(0)
    out, _, status = finish(connection)
    assert out.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert status["status"] == "Success"
    out, _, _ = finish(run(api, "cat", "/data/file"))
    assert out == data


def test_v4_cannot_end_standard_input(cluster: Any, api: Any, pod: None):
    connection = run(api, "sh", "-c", "cat; touch /data/ended", stdin=True, protocol=V4)
    connection.write_stdin(b"one")
    assert wait_for(lambda: connection.read_channel(1, timeout=1)) == b"one"
    connection.close_channel(0)
    connection.update(timeout=0.3)
    assert connection.is_open()
    assert finish(run(api, "ls", "/data"))[0] == b""
    connection.close()
    wait_for(lambda: finish(run(api, "ls", "/data"))[0] == b"ended\n")


def test_command_that_cannot_start_is_an_error(cluster: Any, api: Any, pod: None):
    _, _, status = finish(run(api, "no-such-program"))
    assert (status["status"], status["reason"]) == ("Failure", "InternalError")
    assert "executable file not found in $PATH" in status["message"]
    assert "details" not in status
    with pytest.raises(ApiException, match="404"):
        stream(api.connect_get_namespaced_pod_exec, "other", "default", command=["true"], stdout=True)
    with pytest.raises(ApiException, match="400"):
        run(api, "true", container="other")
    with pytest.raises(ApiException, match="400"):
        run(api, "true", protocol="v3.channel.k8s.io")


def test_command_needs_a_running_container(cluster: Any, api: Any):
    api.create_namespaced_pod("default", manifest(command="true"))
    wait_for(lambda: cluster.pod("pod")["status"]["phase"] == "Succeeded")
    _, _, status = finish(run(api, "true"))
    assert (status["status"], status["message"]) == ("Failure", 'container not found ("job")')
    with pytest.raises(ApiException, match="500"):
        run(api, "true", protocol=V4)


def test_broken_connection_is_noticed_by_the_client(cluster: Any, api: Any, pod: None):
    cluster.cut_executions(after=100_000)
    connection = run(api, "head", "-c", "1000000", "/dev/zero")
    out = b""
    with pytest.raises(Exception, match=r"closed|reset|lost"):
        while connection.is_open():
            connection.update(timeout=5)
            out += connection.read_channel(1)
        raise ConnectionError("connection is lost")
    assert len(out) <= 100_000
    assert connection.read_channel(3) == b""
    cluster.cut_executions(after_input=50_000)
    connection = run(api, "sh", "-c", "cat > /data/part", stdin=True)
    with pytest.raises(Exception, match=r"closed|reset|lost|[Bb]roken"):
        for _ in range(100):
            connection.write_stdin(b"x" * 10_000)
            connection.update(timeout=0.1)
    connection.sock.shutdown()
    cluster.leave_executions()
    wait_for(lambda: finish(run(api, "wc", "-c", "/data/part"))[0] == b"50000 /data/part\n")
    connection = run(api, "sleep", "60")
    wait_for(lambda: cluster._executions)
    cluster.cut_executions()
    begin = time.monotonic()
    with pytest.raises(Exception, match=r"closed|reset|lost"):
        connection.run_forever(timeout=20)
        raise ConnectionError("connection is lost")
    assert time.monotonic() - begin < 10


def test_command_outlives_its_client_but_not_its_container(cluster: Any, api: Any, pod: None):
    connection = run(api, "sh", "-c", "sleep 0.5; echo out; touch /data/went-on; sleep 60")
    connection.close()
    wait_for(lambda: finish(run(api, "ls", "/data"))[0] == b"went-on\n")
    connection = run(api, "sh", "-c", "echo runs; exec sleep 60")
    assert wait_for(lambda: connection.read_channel(1, timeout=1)) == b"runs\n"
    cluster.delete("pod", grace=0)
    _, _, status = finish(connection)
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "137"}]
