"""Secrets of jobs: their way to the runner, their masks in fetched logs, and secrets that are missing at the start."""

from __future__ import annotations

import pytest

from polyjob.db.database import write
from polyjob.db.models import Job, Secret
from polyjob.engine import finalize
from polyjob.engine.log_mask import mask_piece
from polyjob.engine.orphans import LOOK_INTERVAL_SECONDS, SALVAGE_FOLDER
from polyjob.services import job_secrets, submission
from polyjob.statuses import Status
from polyjob.storage.secret_box import KEY_FILE
from polyjob.storage.store import Store
from runners.common.masking import Masker
from runners.fake import FakeRunner

VALUE = "correct horse"


@pytest.fixture
def secret(world):
    """Store a secret of the project, or of the server."""

    def store(name="TOKEN", value=VALUE, project=world.project):
        return job_secrets.set_secret(project, world.user, name, value, world.settings.data_dir)

    return store


def submit(world, *names, **env):
    pairs = [[f"FAKE_{name.upper()}", str(value)] for name, value in env.items()]
    config = {"version": 1, "kind": "job", "run": {"cmd": "true"}}
    config["environment"] = {"env_vars": pairs, "secret_refs": list(names)}
    return submission.create(world.project, world.user, {"config": config}, world.settings)


def values_of(world, job):
    return world.runner._read(job.uuid)["secrets"]


def log_of(world, job):
    return world.store.job_log(job.uuid).read_bytes()


def test_job_gets_its_secrets(world, secret):
    secret(), secret("OTHER", "battery staple"), secret("UNUSED")
    job = submit(world, "TOKEN", "OTHER", seconds=5)
    world.settle()
    assert values_of(world, job) == {"TOKEN": VALUE, "OTHER": "battery staple"}
    assert VALUE not in str(world.read(job).__data__)


def test_secret_of_the_project_takes_precedence(world, secret):
    secret(value="of the project")
    secret(value="of the server", project=None)
    job = submit(world, "TOKEN", seconds=5)
    world.settle()
    assert values_of(world, job) == {"TOKEN": "of the project"}


def test_value_is_read_at_the_start(world, secret):
    secret(value="old value")
    job = submit(world, "TOKEN", seconds=5)
    secret(value="new value")
    world.settle()
    assert values_of(world, job) == {"TOKEN": "new value"}


def test_deleted_secret_fails_the_waiting_job(world, secret):
    secret()
    job = submit(world, "TOKEN")
    job_secrets.delete(world.project, "TOKEN")
    world.settle()
    assert world.statuses(job)[-1] == "failed"
    assert world.last(job).details["reason"] == "start"
    assert "The secret `TOKEN` was deleted while the job waited" in world.last(job).message
    assert world.calls("start", job) == 0


@pytest.mark.parametrize("damage", ["missing", "another key"])
def test_lost_key_fails_the_job_and_names_the_secret(world, secret, damage):
    secret()
    (world.settings.data_dir / KEY_FILE).unlink()
    if damage == "another key":
        secret("OTHER")
    job = submit(world, "TOKEN")
    world.settle()
    assert world.statuses(job)[-1] == "failed"
    assert "The secret `TOKEN` cannot be decrypted" in world.last(job).message
    assert damage in world.last(job).message
    secret()
    again = submit(world, "TOKEN")
    world.settle()
    assert world.statuses(again)[-1] == "succeeded"


def test_deleted_secret_does_not_fail_a_job_that_was_started(world, secret):
    secret()
    job = submit(world, "TOKEN", start="unavailable", log=f"<{VALUE}>\n")
    world.settle()
    assert world.statuses(job)[-1] == "scheduled"
    job_secrets.delete(world.project, "TOKEN")
    world.restart()
    world.later(5)
    assert world.statuses(job)[-1] == "succeeded"
    assert log_of(world, job) == b"<***>\n"


def test_fetched_log_is_masked(world, secret):
    secret(), secret("KEY", "first line\nab\nsecond line")
    job = submit(world, "TOKEN", "KEY", log=f"a {VALUE} b\nfirst line\nab\nsecond line\n")
    world.settle()
    assert world.statuses(job)[-1] == "succeeded"
    assert log_of(world, job) == b"a *** b\n***\nab\n***\n"


def test_log_of_a_job_without_secrets_is_unchanged(world, secret):
    secret()
    job = world.submit(log=f"{VALUE}\n")
    world.settle()
    assert log_of(world, job) == f"{VALUE}\n".encode()
    assert world.calls("secret_values", job) == 0


@pytest.mark.parametrize("piece", [1, 3, 7])
def test_secret_between_two_fetches_is_masked(world, secret, monkeypatch, piece):
    monkeypatch.setattr(finalize, "LOG_PIECE_BYTES", piece)
    secret()
    job = submit(world, "TOKEN", log=f"is {VALUE}\n{VALUE[:5]}")
    world.end(job)
    assert log_of(world, job) == f"is ***\n{VALUE[:5]}".encode()


def test_masking_continues_after_a_crash(world, secret, monkeypatch):
    """Each engine fetches one piece, and the next one does not know what the last one has held back."""
    monkeypatch.setattr(finalize, "LOG_PIECE_BYTES", 3)
    secret()
    job = submit(world, "TOKEN", log=f"is {VALUE}\n{VALUE[:5]}", seconds=60)
    world.settle()
    secret(value="another value")
    for _ in range(12):
        world.clock.move(3)
        world.settle()
        assert VALUE[:3] not in str(world.read(job).log_cursor)
        assert log_of(world, job) in b"is ***\n"
        world.restart()
    world.end(job)
    assert log_of(world, job) == f"is ***\n{VALUE[:5]}".encode()


def test_log_waits_while_the_secrets_cannot_be_read(world, secret, monkeypatch):
    secret()
    job = submit(world, "TOKEN", log=f"{VALUE}\n")

    def refuse(runner, handle):
        raise ValueError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(FakeRunner, "secret_values", refuse)
        world.settle()
        assert not world.store.job_log(job.uuid).exists()
        assert not world.read(job).status.is_done
    world.end(job)
    assert log_of(world, job) == b"***\n"


def test_retry_of_a_job_gets_its_secrets(world, secret):
    secret()
    job = submit(world, "TOKEN", code=3, log=f"{VALUE}\n")
    again = {"config": world.read(job).config | {"termination": {"max_retries": 1}}}
    first = submission.create(world.project, world.user, again, world.settings)
    world.end(first)
    world.later(60)
    retry = Job.get(Job.first_attempt == first.id)
    assert retry.status is Status.FAILED
    assert log_of(world, retry) == b"***\n"


def test_secrets_of_a_removed_project_are_removed(world, secret):
    secret()
    world.project.delete_instance()
    assert Secret.select().count() == 0


def test_log_of_an_orphan_is_masked(world, secret):
    secret()
    job = submit(world, "TOKEN", log=f"<{VALUE}>\n", seconds=10)
    world.settle()
    with write("test"):
        Job.delete().where(Job.id == job.id).execute()
    for _ in range(2):
        world.clock.move(LOOK_INTERVAL_SECONDS)
        world.settle()
    assert Store(world.settings.data_dir / SALVAGE_FOLDER).job_log(job.uuid).read_bytes() == b"<***>\n"


def test_times_of_a_piece_are_those_of_the_masked_bytes():
    masker = Masker([VALUE])
    data = f"{VALUE}\nand {VALUE}\n{VALUE[:4]}".encode()
    times = [(4, 10), (14, 20), (32, 30)]
    assert mask_piece(masker, data, times) == (b"***\nand ***\n", [(0, 10), (4, 20), (12, 30)])
    assert mask_piece(masker, VALUE[4:].encode(), ()) == (b"***", [])
