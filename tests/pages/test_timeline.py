"""The bar of a timeline."""

from __future__ import annotations

import datetime

from polyjob.db.models import Job
from polyjob.pages import timeline
from polyjob.statuses import Status


def test_run_that_ended_before_its_start_took_no_time() -> None:
    created, end = (datetime.datetime(2026, 1, 1, hour, tzinfo=datetime.UTC) for hour in (1, 2))
    assert timeline.elapsed(Job(created_at=created, started_at=created, finished_at=end)) is None
    assert timeline.elapsed(Job(created_at=created, started_at=None)) is None


def test_bar_is_empty_without_steps_or_room() -> None:
    moment = datetime.datetime.now(datetime.UTC)
    step = timeline.Step(Status.RUNNING, moment, datetime.timedelta(1), None, None)
    assert timeline.bar([]) == []
    assert timeline.bar([step] * 200) == []
    assert [segment.width for segment in timeline.bar([step, step])] == [500, 500]
