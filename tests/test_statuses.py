import pytest

from polyjob.statuses import DONE, Status, may_follow

ORDER = [Status.CREATED, Status.SCHEDULED, Status.BUILDING, Status.RUNNING]


def test_managed_job_only_goes_forward():
    for position, current in enumerate(ORDER):
        for new in ORDER[: position + 1]:
            assert not may_follow(new, current, managed=True)


@pytest.mark.parametrize("managed", [True, False])
def test_no_status_follows_a_terminal_one(managed):
    assert not any(may_follow(new, current, managed=managed) for new in Status for current in DONE)


def test_success_only_follows_running():
    assert [current for current in Status if may_follow(Status.SUCCEEDED, current, managed=True)] == [Status.RUNNING]


@pytest.mark.parametrize("current", ORDER)
def test_managed_job_can_be_stopped_at_any_time(current):
    assert may_follow(Status.STOPPED, current, managed=True)


@pytest.mark.parametrize("new", [Status.WARNING, Status.UNKNOWN, Status.RESUMING, Status.UNSCHEDULABLE])
def test_managed_job_never_gets_reported_statuses(new):
    assert not any(may_follow(new, current, managed=True) for current in Status)


@pytest.mark.parametrize("new", [Status.SKIPPED, Status.UPSTREAM_FAILED])
def test_dependencies_end_only_a_job_that_still_waits(new):
    assert [current for current in Status if may_follow(new, current, managed=True)] == [Status.CREATED]


def test_no_status_follows_itself():
    assert not any(may_follow(status, status, managed=managed) for status in Status for managed in (True, False))


@pytest.mark.parametrize(
    ("new", "current"),
    [
        (Status.BUILDING, Status.CREATED),
        (Status.BUILDING, Status.SCHEDULED),
        (Status.SCHEDULED, Status.BUILDING),
        (Status.RUNNING, Status.UNKNOWN),
        (Status.WARNING, Status.RUNNING),
        (Status.SUCCEEDED, Status.CREATED),
        (Status.RESUMING, Status.WARNING),
    ],
)
def test_unmanaged_job_can_report_in_any_order(new, current):
    assert may_follow(new, current, managed=False)


def test_created_is_written_only_once():
    assert not any(may_follow(Status.CREATED, current, managed=False) for current in Status)
