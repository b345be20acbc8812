"""Commands in pods, over the cluster simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runners.base import Placement
from tests.runners.harness import archive
from tests.runners.kubernetes.helpers import run_to_end
from tests.runners.kubernetes_harness import KubernetesHarness


def test_log_has_both_streams_in_order(harness: KubernetesHarness) -> None:
    _, log, _ = run_to_end(
        harness, r"for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf '\377\000\r\n\n x\r'"
    )
    assert log == b"out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n\xff\x00\n\n x\r"


def test_command_sees_the_variables_of_its_job_only(harness: KubernetesHarness, monkeypatch: Any) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    _, log, _ = run_to_end(harness, "env; pwd; echo $(echo a)$$", env={"A": "b $(HOME) $$ c"})
    assert b"A=b $(HOME) $$ c\n" in log
    assert b"/code\n" in log
    assert b"SECRET" not in log
    assert log.splitlines()[-1][:1] == b"a"
    assert log.splitlines()[-1][1:].isdigit()


def test_secrets_and_config_maps_become_variables(harness: KubernetesHarness) -> None:
    harness.cluster.add("secrets", "keys", data={"KEY": "c2VjcmV0"})
    harness.cluster.add("configmaps", "words", data={"WORD": "hello"})
    placement = Placement(secrets=("keys",), config_maps=("words",))
    assert run_to_end(harness, "echo $KEY $WORD", placement=placement)[1] == b"secret hello\n"


def test_background_processes_end_with_the_command(harness: KubernetesHarness) -> None:
    spec = harness.spec("setsid sleep 1000 & exit 3")
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).code == 3
    assert set(harness.cluster.processes(spec.name)) == {"files"}


def test_unprivileged_user_can_write_code_and_outputs(harness: KubernetesHarness, tmp_path: Path) -> None:
    harness.cluster.add_image("unprivileged", user=1000)
    code = archive(tmp_path / "code.tar.gz", ("a.txt", "code"))
    cmd = "cat a.txt; touch b.txt; echo mine > $POLYAXON_RUN_OUTPUTS_PATH/f; touch $POLYAXON_LOGS_PATH/x; id -u"
    end, log, handle = run_to_end(harness, cmd, image="unprivileged", upload=code)
    assert (end.code, log) == (0, b"code1000\n")
    assert harness.outputs(handle) == {"f": b"mine\n"}
