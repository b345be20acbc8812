"""Jobs that name their build."""

from __future__ import annotations

from polyjob.db.models import Build
from polyjob.services import submission
from polyjob.statuses import Status
from runners.base import ArtifactMissing

from .conftest import BUILD


def test_job_on_a_stale_named_build_gets_an_equal_one(world, monkeypatch):
    world.submit(build=BUILD)
    world.settle()
    old = Build.get()
    body = {"config": {"version": 1, "kind": "job", "run": {"cmd": "true"}}, "build_job": old.id}
    job = submission.create(world.project, world.user, body, world.settings)
    start, refused = world.runner.start, []

    def refuse_once(spec, artifact):
        if not refused:
            refused.append(spec.uuid)
            raise ArtifactMissing("its Python is missing")
        return start(spec, artifact)

    monkeypatch.setattr(world.runner, "start", refuse_once)
    world.settle()
    assert world.statuses(job)[-1] == "succeeded"
    new = world.read(job).build
    assert new != old
    assert (new.config, new.key) == (old.config, old.key)


def test_build_continues_for_a_queued_job_that_named_it(world):
    build = world.request_build()
    world.set_available(False)
    Build.update(is_asked=False).execute()
    busy = [world.submit(seconds=30) for _ in range(world.settings.slots)]
    config = {"config": {"version": 1, "kind": "job", "run": {"cmd": "true"}}}
    job = submission.create(world.project, world.user, config | {"build_job": build.id}, world.settings)
    world.later(3)
    assert Build.get_by_id(build.id).status is Status.RUNNING
    world.set_available(True)
    world.end(job, *busy)
    assert world.statuses(job)[2:] == ["building", "running", "succeeded"]
