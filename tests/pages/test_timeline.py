"""The bar of a timeline."""

from __future__ import annotations

import datetime

from polyjob.pages import timeline
from polyjob.statuses import Status


def test_bar_is_empty_without_steps_or_room() -> None:
    moment = datetime.datetime.now(datetime.UTC)
    step = timeline.Step(Status.RUNNING, moment, datetime.timedelta(1), None, None)
    assert timeline.bar([]) == []
    assert timeline.bar([step] * 200) == []
    assert [segment.width for segment in timeline.bar([step, step])] == [500, 500]
