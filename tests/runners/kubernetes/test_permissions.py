"""The check of permissions and admission."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runners.base import RunnerUnavailable
from runners.kubernetes.permissions import PERMISSIONS
from tests.runners.harness import archive
from tests.runners.kubernetes.helpers import run_to_end, start_running
from tests.runners.kubernetes_harness import KubernetesHarness


@pytest.mark.parametrize("missing", PERMISSIONS)
def test_missing_permission_is_named(harness: KubernetesHarness, missing: tuple[str, str, str]) -> None:
    harness.cluster.permit([item for item in (*PERMISSIONS, ("get", "namespaces", "")) if item != missing])
    verb, resource, part = missing
    for check in (harness.another().check, harness.another().probe):
        with pytest.raises(RunnerUnavailable) as caught:
            check()
        assert f"may not: {verb} {resource}{'/' if part else ''}{part}. " in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"least": {"cpu": "50m"}}, "minimum cpu usage"),
        ({"policy": 'violates PodSecurity "restricted:latest"'}, "violates PodSecurity"),
        ({"quota": {"limits.memory": "1Mi"}}, "exceeded quota"),
    ],
)
def test_namespace_that_admits_no_pod_is_named(harness: KubernetesHarness, rules: Any, words: str) -> None:
    harness.cluster.restrict(**rules)
    before = len(harness.cluster.pods())
    with pytest.raises(RunnerUnavailable, match=f"admits no pod of a job: .*{words}"):
        harness.another().check()
    harness.cluster.restrict()
    harness.another().check()
    assert len(harness.cluster.pods()) == before


def test_full_quota_is_ignored(harness: KubernetesHarness) -> None:
    start_running(harness, harness.endless_job())
    harness.cluster.restrict(quota={"pods": "1"})
    harness.another().check()


def test_webhook_without_dry_run_is_ignored(harness: KubernetesHarness) -> None:
    harness.cluster.restrict(policy='admission webhook "pods.example.org" does not support dry run')
    harness.another().check()


def test_listed_permissions_are_enough(harness: KubernetesHarness, tmp_path: Path) -> None:
    harness.cluster.permit([*PERMISSIONS, ("create", "selfsubjectaccessreviews", "")])
    code = archive(tmp_path / "code.tar.gz", ("a.txt", "code"))
    runner = harness.runner = harness.another()
    runner.check()
    end, log, handle = run_to_end(harness, "cat a.txt; echo x > $POLYAXON_RUN_OUTPUTS_PATH/f", upload=code)
    assert (end.code, log) == (0, b"code")
    assert harness.outputs(handle) == {"f": b"x\n"}
    stopped = start_running(harness, harness.endless_job())
    runner.stop(stopped, force=False)
    assert harness.end(stopped).signal == 15
