"""Logs of the simulator, like a kubelet's: timestamps, selection, following, and rotation."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes.client import ApiException

from tests.simulators.kubernetes.conftest import manifest, wait_for


def run(cluster: Any, api: Any, command: str, **changes: Any) -> None:
    """Run a shell command in a pod to its end."""
    pod = manifest(command=command)
    pod["spec"]["containers"][0] |= changes
    api.create_namespaced_pod("default", pod)
    wait_for(lambda: cluster.pod("pod")["status"]["phase"] in ("Succeeded", "Failed"))


def log(api: Any, **options: Any) -> str:
    """Return the log's bytes unchanged by the client."""
    return api.read_namespaced_pod_log("pod", "default", _preload_content=False, **options).data.decode()


def test_log_has_both_streams_and_an_unfinished_line(cluster: Any, api: Any):
    run(cluster, api, "echo one; sleep 0.1; echo two >&2; sleep 0.1; printf three")
    assert log(api) == "one\ntwo\nthree"
    assert log(api, tail_lines=2) == "two\nthree"
    assert log(api, tail_lines=0) == ""
    assert log(api, limit_bytes=5) == "one\nt"


@pytest.mark.parametrize(
    ("written", "expected"), [(r"a\r\nb", "a\nb"), (r"a\r\r\n", "a\r\n"), (r"a\rb\n\r", "a\rb\n\r")]
)
def test_carriage_return_before_a_line_end_is_dropped(cluster: Any, api: Any, written: str, expected: str):
    run(cluster, api, f"printf '{written}'")
    assert log(api) == expected


def test_timestamps_have_nanoseconds_but_selection_whole_seconds(cluster: Any, api: Any):
    run(cluster, api, "echo one; sleep 1.1; echo two; echo; printf three")
    lines = log(api, timestamps=True).split("\n")
    for line, text in zip(lines, ("one", "two", "", "three"), strict=True):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z " + text, line)
    second = datetime.fromisoformat(lines[1].split()[0])
    assert log(api, since_seconds=3600) == "one\ntwo\n\nthree"
    url = f"{cluster.url}/api/v1/namespaces/default/pods/pod/log"
    for moment, expected in (
        (second, "two\n\nthree"),
        (second.replace(microsecond=999999), "two\n\nthree"),
        (second + timedelta(seconds=1), ""),
    ):
        text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        response = api.api_client.rest_client.pool_manager.request(
            "GET", url, fields={"sinceTime": text}, headers={"Authorization": f"Bearer {cluster.token}"}
        )
        assert response.data.decode() == expected, "the time is truncated to whole seconds"


def test_timestamps_have_the_nodes_time_zone(cluster: Any, api: Any):
    cluster.configure(zone=-210)
    run(cluster, api, "echo one")
    stamp = log(api, timestamps=True).split()[0]
    assert stamp.endswith("-03:30")
    assert abs(datetime.fromisoformat(stamp).timestamp() - time.time()) < 60
    assert log(api, since_seconds=60) == "one\n"


def test_long_line_is_complete(cluster: Any, api: Any):
    run(cluster, api, "head -c 50000 /dev/zero | tr '\\0' x; echo; echo end")
    assert log(api) == "x" * 50000 + "\nend\n"
    assert len(log(api, timestamps=True).splitlines()) == 2
    file = next(cluster.state.rglob("0.log")).read_bytes()
    assert [line.split()[2] for line in file.splitlines()] == [b"P", b"P", b"P", b"F", b"F"]


def test_rotated_lines_are_not_returned(cluster: Any, api: Any):
    cluster.configure(log_limit=20_000)
    run(cluster, api, "for i in $(seq 1000 1999); do echo line $i; done")
    lines = log(api).splitlines()
    assert lines[-1] == "line 1999"
    assert 0 < len(lines) < 1000
    assert lines == [f"line {number}" for number in range(2000 - len(lines), 2000)]


def test_followed_log_survives_rotation(cluster: Any, api: Any):
    """Afterwards, the log can be read without its rotated part."""
    pod = manifest(
        command="echo line 1; echo line 2; until [ -e /data/go ]; do sleep 0.05; done; echo line 3; printf end",
        volumes=[{"name": "data", "emptyDir": {}}],
    )
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    created = api.create_namespaced_pod("default", pod)
    wait_for(lambda: cluster.pod("pod")["status"]["phase"] == "Running")
    answer = api.read_namespaced_pod_log("pod", "default", follow=True, _preload_content=False)
    data = b""
    while data.count(b"\n") < 2:
        chunk = answer.read1()
        assert chunk, "the log has ended"
        data += chunk
    cluster.rotate_log("pod")
    wait_for(lambda: log(api) == "")
    (cluster.state / "pods" / created.metadata.uid / "volumes" / "data" / "go").touch()
    data += answer.read()
    answer.release_conn()
    assert data == b"line 1\nline 2\nline 3\nend"
    assert log(api) == "line 3\nend"


def test_followed_log_arrives_line_by_line(cluster: Any, api: Any):
    api.create_namespaced_pod("default", manifest(command="seq 50; sleep 60"))
    wait_for(lambda: cluster.pod("pod")["status"]["phase"] == "Running")
    answer = api.read_namespaced_pod_log("pod", "default", follow=True, _preload_content=False)
    chunks = answer.read_chunked()
    assert [next(chunks) for _ in range(50)] == [b"%d\n" % number for number in range(1, 51)]
    answer.close()


def refusal_of(api: Any, **options: Any) -> tuple[int, str]:
    with pytest.raises(ApiException) as error:
        api.read_namespaced_pod_log("pod", "default", **options)
    return error.value.status, json.loads(error.value.body)["message"]


def test_log_that_does_not_exist_is_an_error(cluster: Any, api: Any):
    assert refusal_of(api) == (404, 'pods "pod" not found')
    cluster.schedule_nothing("full")
    pod = manifest()
    pod["spec"]["containers"].append({"name": "beside", "image": "not-there"})
    api.create_namespaced_pod("default", pod)
    assert log(api, container="job") == "", "a pod without a node has an empty log"
    cluster.schedule_nothing(None)
    wait_for(lambda: cluster.pod("pod")["status"].get("containerStatuses", [{"state": {}}])[0]["state"].get("running"))
    text = "a container name must be specified for pod pod, choose one of: [job beside]"
    assert refusal_of(api) == (400, text)
    assert refusal_of(api, container="other") == (400, "container other is not valid for pod pod")
    assert refusal_of(api, container="job", previous=True) == (
        400,
        'previous terminated container "job" in pod "pod" not found',
    )
    code, message = wait_for(
        lambda: (result := refusal_of(api, container="beside")) and "Creating" not in result[1] and result
    )
    assert (code, message.startswith('container "beside" in pod "pod" is waiting to start: ')) == (400, True)
    assert message.endswith(("image can't be pulled", "trying and failing to pull image"))
    assert refusal_of(api, container="job", since_seconds=0)[0] == 422
