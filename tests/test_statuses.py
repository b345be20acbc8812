import pytest

from polyjob.statuses import DONE, Status, may_follow

ORDER = [Status.CREATED, Status.SCHEDULED, Status.BUILDING, Status.RUNNING]


def test_a_managed_job_goes_forward_only():
    for position, current in enumerate(ORDER):
        for new in ORDER[: position + 1]:
            assert not may_follow(new, current, managed=True)


@pytest.mark.parametrize("managed", [True, False])
def test_nothing_follows_what_is_done(managed):
    assert not any(may_follow(new, current, managed=managed) for new in Status for current in DONE)


def test_a_success_comes_only_out_of_running():
    assert [current for current in Status if may_follow(Status.SUCCEEDED, current, managed=True)] == [Status.RUNNING]


@pytest.mark.parametrize("current", ORDER)
def test_a_managed_job_can_be_stopped_at_any_time(current):
    assert may_follow(Status.STOPPED, current, managed=True)


@pytest.mark.parametrize("new", [Status.WARNING, Status.UNKNOWN, Status.SKIPPED, Status.RESUMING, Status.UNSCHEDULABLE])
def test_a_managed_job_never_has_statuses_that_only_others_report(new):
    assert not any(may_follow(new, current, managed=True) for current in Status)


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
def test_a_job_that_others_drive_reports_in_its_own_order(new, current):
    assert may_follow(new, current, managed=False)


def test_created_is_written_once_and_never_reported():
    assert not any(may_follow(Status.CREATED, current, managed=False) for current in Status)
