import pytest

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, Job, Project, User
from polyjob.db.prepared import Prepared, insert, update
from polyjob.services import submission
from polyjob.statuses import Status

CONFIG = {"version": 1, "kind": "job", "run": {"cmd": "true"}}


@pytest.fixture
def job(project, user, settings):
    attributes = {"config": CONFIG, "tags": ["a"], "name": "first", "params": {"x": 1}}
    return submission.create(project, user, attributes, settings)


def test_prepared_statement_returns_the_rows_of_peewee(job):
    prepared = Prepared(lambda: Job.select().where(Job.id == 0)).first(job.id)
    plain = Job.get_by_id(job.id)
    assert prepared.__data__ == plain.__data__
    assert {name: type(value) for name, value in prepared.__data__.items()} == {
        name: type(value) for name, value in plain.__data__.items()
    }
    assert prepared == plain
    assert prepared.dirty_fields == []


def test_prepared_row_loads_its_relations(job, project):
    row = Prepared(lambda: Job.select(Job.id, Job.project).where(Job.id == 0)).first(job.id)
    assert (row.project_id, row.project.name) == (project.id, project.name)
    assert row.status is None


def test_prepared_statement_loads_a_joined_table(project):
    query = Project.select(Project, User).join(User)
    with_owner = Prepared(lambda: query.where(Project.id == 0)).first(project.id)
    plain = query.where(Project.id == project.id).get()
    assert with_owner.__data__ == plain.__data__
    assert with_owner.__rel__["user"].__data__ == plain.__rel__["user"].__data__


def test_missing_row_is_none(data_dir):
    assert Prepared(lambda: Job.select().where(Job.id == 0)).first(7) is None


def test_wrong_number_of_parameters_is_refused(data_dir):
    with pytest.raises(AssertionError, match="expected 1 parameters"):
        Prepared(lambda: Job.select().where(Job.id == 0))(1, 2)


def test_inserted_row_has_the_defaults_and_values_of_its_table(project, user):
    values = {"uuid": "u", "project": project, "user": user, "runner": "fake", "config": CONFIG, "tags": ["ä"]}
    with write("test"):
        row = insert(Job, values | {"created_at": now(), "updated_at": now()})
    stored = Job.get_by_id(row.id)
    assert (stored.status, stored.is_managed, stored.project, stored.tags) == (Status.CREATED, True, project, ["ä"])
    assert {name: value for name, value in stored.__data__.items() if value is not None} == row.__data__


def test_update_changes_only_the_expected_row(job):
    with write("test"):
        assert update(Job, job.id, {"notes": [{"kind": "k"}], "stop_at": job.created_at}, "version", status="created")
        assert not update(Job, job.id, {"notes": None}, status="running")
        assert not update(Job, job.id + 1, {"notes": None})
    stored = Job.get_by_id(job.id)
    assert (stored.notes, stored.stop_at, stored.version) == ([{"kind": "k"}], job.created_at, job.version + 1)


def test_prepared_statements_serve_several_tables(job):
    by_name = Prepared(lambda: Project.select(Project.id).where(Project.name == ""))
    assert [row.id for row in by_name(job.project.name)] == [job.project_id]
    assert Prepared(lambda: Build.select().where(Build.key == ""))("none") == []
