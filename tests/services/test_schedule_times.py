"""The instants of schedules: cron expressions, daylight saving time, and invalid values."""

from __future__ import annotations

import datetime
import itertools

import hypothesis
import pytest
from hypothesis import strategies

from polyjob.errors import Invalid
from polyjob.services.schedule_times import Times, parse_cron, parse_instant, parse_timezone

BERLIN = "Europe/Berlin"


def utc(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def first(cron, start, count, timezone=BERLIN):
    instants = itertools.islice(Times(cron, timezone).after(utc(start)), count)
    return [f"{instant:%m-%d %H:%M}" for instant in instants]


class TestDaylightSaving:
    """In 2026, Berlin goes from 02:00 to 03:00 on 29 March, and back on 25 October, each time at 01:00 UTC."""

    def test_missing_time_fires_at_the_change(self):
        assert first("30 2 * * *", "2026-03-28T00:00", 3) == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]

    def test_several_missing_times_fire_once_at_the_change(self):
        assert first("15,30 2 * * *", "2026-03-28T12:00", 3) == ["03-29 01:00", "03-30 00:15", "03-30 00:30"]

    def test_time_that_exists_twice_fires_the_first_time(self):
        assert first("30 2 * * *", "2026-10-24T00:00", 3) == ["10-24 00:30", "10-25 00:30", "10-26 01:30"]

    def test_time_that_exists_twice_does_not_fire_again_in_between(self):
        assert first("50 2 * * *", "2026-10-25T01:45", 1) == ["10-26 01:50"]

    def test_time_after_the_change_keeps_its_local_hour(self):
        assert first("0 4 * * *", "2026-03-28T00:00", 3) == ["03-28 03:00", "03-29 02:00", "03-30 02:00"]
        assert first("0 4 * * *", "2026-10-24T00:00", 3) == ["10-24 02:00", "10-25 03:00", "10-26 03:00"]

    @pytest.mark.parametrize("start", ["2026-03-29T00:00", "2026-10-25T00:00"])
    def test_half_hours_fire_every_half_hour(self, start):
        instants = list(itertools.islice(Times("*/30 * * * *", BERLIN).after(utc(start)), 8))
        assert {b - a for a, b in itertools.pairwise(instants)} == {datetime.timedelta(minutes=30)}


def test_instants_come_after_the_given_moment():
    assert first("0 3 * * *", "2026-12-01T03:00", 1, "UTC") == ["12-02 03:00"]
    assert first("0 3 * * *", "2026-12-01T02:59:59.999999", 1, "UTC") == ["12-01 03:00"]


def test_one_time_schedule_fires_once():
    times = Times(None, "UTC", utc("2026-12-24T18:00"))
    assert times.next_after(utc("2026-12-24T17:59")) == utc("2026-12-24T18:00")
    assert times.next_after(utc("2026-12-24T18:00")) is None


@pytest.mark.parametrize("cron", ["* * * * *", "*/7 * * * *", "0 3 * * *", "30 2 * * 0", "0 0 1 * *"])
@pytest.mark.parametrize("limit", [1, 7, 100])
def test_latest_instants_are_the_last_ones_of_all(cron, limit):
    times, start, end = Times(cron, BERLIN), utc("2026-10-20T01:00"), utc("2026-11-02T12:34")
    all_instants = list(itertools.takewhile(lambda instant: instant <= end, times.after(start)))
    instants, has_more = times.latest(start + datetime.timedelta(microseconds=1), end, limit)
    assert instants == all_instants[-limit:]
    assert has_more == (len(all_instants) > limit)


@pytest.mark.parametrize(
    ("cron", "part"),
    [
        ("", "five fields"), ("0 3 * *", "five fields"), ("* * * * * *", "five fields"), ("@daily", "five fields"),
        ("61 * * * *", "minute"), ("0 24 * * *", "hour"), ("0 0 0 * *", "day-of-month"), ("0 0 * 13 *", "month"),
        ("0 0 * * MOO", "day-of-week"), ("²L * * * *", "minute"), ("0 0 31 2 *", "never fires"),
        ("0 0 31 4,6 *", "never fires"), ("0 " * 200, "Longer than 200"),
    ],
)  # fmt: skip
def test_invalid_cron_expression_is_refused(cron, part):
    with pytest.raises(Invalid) as refusal:
        parse_cron(cron, BERLIN)
    assert refusal.value.problems[0].pointer == "/cron"
    assert part in str(refusal.value)


def test_blanks_of_a_cron_expression_are_normalized():
    assert parse_cron(" 0\t3  * * mon-fri ", BERLIN) == "0 3 * * mon-fri"


def test_rare_day_is_accepted():
    assert parse_cron("0 0 29 2 *", BERLIN) == "0 0 29 2 *"


@hypothesis.given(strategies.lists(strategies.text("0123456789*/-,L#MON ", min_size=1, max_size=6), max_size=6))
def test_any_text_is_parsed_or_refused(parts):
    try:
        cron = parse_cron(" ".join(parts), BERLIN)
    except Invalid:
        return
    moment = utc("2026-03-28T12:00")
    instants = list(itertools.islice(Times(cron, BERLIN).after(moment), 3))
    assert instants == sorted(set(instants))
    assert all(instant > moment for instant in instants)


@pytest.mark.parametrize("name", ["Europe/Berlinn", "../etc/passwd", "/etc/localtime", "Europe", "\0", "a" * 100])
def test_unknown_timezone_is_refused(name):
    with pytest.raises(Invalid) as refusal:
        parse_timezone(name)
    assert refusal.value.problems[0].pointer == "/timezone"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-12-24T18:00", "2026-12-24T17:00"),
        ("2026-12-24T18:00Z", "2026-12-24T18:00"),
        ("2026-12-24 18:00+05:00", "2026-12-24T13:00"),
    ],
)
def test_iso_time_is_in_the_timezone_unless_it_has_an_offset(text, expected):
    assert parse_instant(text, BERLIN, utc("2026-12-01T00:00")) == utc(expected)


@pytest.mark.parametrize(
    "text", ["tomorrow", "03:00", "2026-11-30T00:00", "0001-01-01T00:00", "9999-12-31T23:59-23:59"]
)
def test_invalid_or_past_time_is_refused(text):
    with pytest.raises(Invalid) as refusal:
        parse_instant(text, BERLIN, utc("2026-12-01T00:00"))
    assert refusal.value.problems[0].pointer == "/at"
