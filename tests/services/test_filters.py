import datetime
import re

import pytest

from polyjob.db.database import write
from polyjob.db.models import Job, Project, User
from polyjob.errors import Invalid
from polyjob.services.filters import BUILD_FIELDS, JOB_FIELDS, parse_query
from polyjob.services.listing import Listing
from polyjob.services.sorting import JOB_SORT_COLUMNS, parse_order, parse_sort
from polyjob.statuses import Status

DAY = datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC)


@pytest.fixture
def rows(project, user):
    """Create four jobs, a to d, one per day at noon, beginning with DAY."""
    with write("test"):
        other = User.create(username="bo", created_at=DAY)
        for number, name in enumerate("abcd"):
            moment = DAY + datetime.timedelta(days=number, hours=12)
            Job.create(
                uuid=name * 32,
                project=project,
                user=other if name == "d" else user,
                runner="fake",
                name=name,
                description=[None, "Fetch 100% of it", "fetch_it", "other"][number],
                status=[Status.CREATED, Status.RUNNING, Status.SUCCEEDED, Status.FAILED][number],
                tags=[None, ["x"], ["x", "y"], ["z"]][number],
                created_at=moment,
                updated_at=moment,
                finished_at=moment if number >= 2 else None,
                exit_code=[None, None, 0, 7][number],
            )


def names_of(query, sort="created_at"):
    """Return the names of the jobs that match, as peewee selects them; a listing must select the same."""
    jobs = Job.select().where(*parse_query(query, JOB_FIELDS, "job") or [True])
    names = {job.id: job.name for job in jobs.order_by(*parse_sort(sort, JOB_SORT_COLUMNS))}
    listing = Listing(Job, [project.id for project in Project.select()], [], query)
    listed = [job_id for _, job_id in listing.page(parse_order(sort, JOB_SORT_COLUMNS), 10)]
    assert listed == list(names)
    assert listing.count(10) == len(names)
    return "".join(names.values())


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", "abcd"),
        ("status:running", "b"),
        ("status: running | succeeded", "bc"),
        ("status:~running", "acd"),
        ("status:~running|failed", "ac"),
        ("status:finished", ""),
        ("status:running,status:failed", ""),
        ("name:a", "a"),
        ("name:A", ""),
        ("name:a|c", "ac"),
        ("description:%fetch%", "bc"),
        ("description:fetch%", "bc"),
        ("description:%it", "bc"),
        ("description:%100%%", "b"),
        ("description:%_it%", "c"),
        ("description:~%fetch%", "ad"),
        ("tags:x", "bc"),
        ("tags:y|z", "cd"),
        ("tags:~x", "ad"),
        ("created_at:2024-05-07", "b"),
        ("created_at:~2024-05-07", "acd"),
        ("created_at:<2024-05-07", "a"),
        ("created_at:<=2024-05-07", "ab"),
        ("created_at:=<2024-05-07", "ab"),
        ("created_at:>2024-05-07", "cd"),
        ("created_at:>=2024-05-07", "bcd"),
        ("created_at:2024-05-07 .. 2024-05-08", "bc"),
        ("created_at:~2024-05-07..2024-05-08", "ad"),
        ("created_at:>=2024-05-07 12:00", "bcd"),
        ("created_at:>2024-05-07 12:00:00", "cd"),
        ("created_at:2024-05-07T14:00+02:00", "b"),
        ("finished_at:>2000-01-01", "cd"),
        ("finished_at:~2024-05-08", "d"),
        ("exit_code:0", "c"),
        ("exit_code:>0", "d"),
        ("exit_code:>=0", "cd"),
        ("exit_code:~0", "abd"),
        ("user:ana", "abc"),
        ("user.username:bo", "d"),
        ("user:~ana", "d"),
        ("project.name:demo", "abcd"),
        ("project.name:~demo", ""),
        ("is_managed:true", "abcd"),
        ("is_managed:false", ""),
        ("build:3", ""),
        ("build:ana.demo.builds.3", ""),
        ("build:~ana.demo.builds.3", "abcd"),
        ("original:ana.demo.jobs.3", ""),
        ("original:~ana.demo.jobs.3", "abcd"),
        ("build:~3", "abcd"),
        ("cloning_strategy:restart", ""),
        ("commit:abc", ""),
        ("backend:fake", "abcd"),
        ("created_at:>=2010-01-01,status:Finished", ""),
        ("created_at:>=2010-01-01,status:created|running", "ab"),
    ],
)
def test_query_selects_the_rows(rows, query, names):
    assert names_of(query) == names


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("created_at<2010-01-01", "write `field:value`"),
        ("status", "write `field:value`"),
        ("status:", "write `field:value`"),
        (":x", "write `field:value`"),
        ("status:~", "write `field:value`"),
        ("status:a,", "write `field:value`"),
        ("nothing:1", "Unknown job field `nothing`; use one of: `id`,"),
        ("user.password_hash:x", "Unknown job field `user.password_hash`"),
        ("metric.loss:<1", "cannot be filtered by metrics or params"),
        ("status:a||b", "a value is missing"),
        ("id:x", "is not a whole number"),
        ("id:99999999999999999999", "too large"),
        ("created_at:yesterday", "is not a date; write `YYYY-MM-DD`"),
        ("created_at:2024-13-01", "is not a date; write `YYYY-MM-DD`"),
        ("created_at:2024-01-01|2024-01-02", "does not take `|`"),
        ("created_at:2024-01-01..", "two ends"),
        ("created_at:a..b..c", "two ends"),
        ("exit_code:1..2", "takes neither `|` nor `..`"),
        ("exit_code:>x", "is not a whole number"),
        ("is_managed:maybe", "neither true nor false"),
        ("name:%%", "no text beside the `%`"),
        ("x" * 3000, "at most"),
        (",".join(["status:a"] * 60), "at most"),
    ],
)
def test_invalid_query_is_refused_with_a_reason(query, message):
    with pytest.raises(Invalid, match=re.escape(message)) as refused:
        parse_query(query, JOB_FIELDS, "job")
    assert {problem.pointer for problem in refused.value.problems} == {"/query"}


def test_every_invalid_condition_is_reported():
    with pytest.raises(Invalid) as refused:
        parse_query("a:1,b:2,status:running", JOB_FIELDS, "job")
    assert len(refused.value.problems) == 2


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("created_at", "abcd"),
        ("-created_at", "dcba"),
        ("", "dcba"),
        ("finished_at", "cdab"),
        ("-finished_at", "dcba"),
        ("-finished_at,created_at", "dcab"),
    ],
)
def test_sort_is_stable_with_nulls_last(rows, sort, names):
    assert names_of("", sort) == names


@pytest.mark.parametrize("sort", ["name", "created_at,-config", "createdat", "-"])
def test_unknown_sort_field_error_lists_the_fields(sort):
    for read in (parse_sort, parse_order):
        with pytest.raises(Invalid, match="`started_at`") as refused:
            read(sort, JOB_SORT_COLUMNS)
        assert [problem.pointer for problem in refused.value.problems] == ["sort"]


@pytest.mark.parametrize("text", ["%a%", "a%", "a", "~%a%", "~a"])
def test_many_values_do_not_nest(rows, text):
    """SQLite refuses a condition that is nested too deep."""
    values = "|".join([text, *[text.removeprefix("~")] * 99])
    assert names_of(f"description:{values}") == names_of(f"description:{text}")


@pytest.mark.parametrize("field", ["description", "tags", "status", "user", "project.name", "commit", "id"])
def test_values_of_a_condition_are_limited(field):
    with pytest.raises(Invalid, match="at most 100"):
        parse_query(f"{field}:" + "|".join(["1"] * 101), JOB_FIELDS, "job")


def test_largest_query_is_answered(rows):
    wide = ",".join(["description:~%a%|b%"] * 50)
    assert names_of(wide) == names_of("description:~%a%|b%")


def test_builds_have_no_fields_of_jobs():
    assert not {"build", "original", "exit_code"} & BUILD_FIELDS.keys()
