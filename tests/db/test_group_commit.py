import contextvars
import threading

import pytest
from peewee import OperationalError

from polyjob.db import group_commit
from polyjob.db.database import database, write
from polyjob.db.group_commit import write_in_group
from polyjob.db.models import Meta


class Waiting(list):
    """The waiting members. `joined` counts those that have joined."""

    def __init__(self):
        self.joined = threading.Semaphore(0)

    def append(self, member):
        super().append(member)
        self.joined.release()


class Callers:
    """Threads that write at the same time."""

    def __init__(self):
        self.outcomes = {}
        self._threads = []

    def call(self, key, block=lambda: None):
        """In a thread of its own, insert a row with this key, then run the block. Return when the thread waits."""

        def insert():
            Meta.create(key=key, value="x")
            return block() or key

        def work():
            try:
                self.outcomes[key] = write_in_group("test", insert)
            except Exception as error:
                self.outcomes[key] = error
            database.close()

        self.start(work)

    def start(self, work):
        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()
        assert group_commit._waiting.joined.acquire(timeout=20)

    def join(self):
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def callers(monkeypatch, data_dir):
    monkeypatch.setattr(group_commit, "_waiting", Waiting())
    return Callers()


@pytest.fixture
def commits(monkeypatch, data_dir):
    """The commits so far."""
    commits = []
    original = type(database).commit
    monkeypatch.setattr(type(database), "commit", lambda self: commits.append(1) or original(self))
    return commits


def stored():
    return {row.key for row in Meta.select() if row.value == "x"}


def fail():
    raise ZeroDivisionError


def test_simultaneous_calls_share_one_commit(callers, commits):
    with write("test"):
        for key in "abcd":
            callers.call(key)
    callers.join()
    assert callers.outcomes == {key: key for key in "abcd"}
    assert stored() == set("abcd")
    assert len(commits) == 2  # the one that held the lock, and the group's


def test_single_call_is_committed_alone(commits):
    assert write_in_group("test", lambda: Meta.create(key="a", value="x").key) == "a"
    assert stored() == {"a"}
    assert len(commits) == 1


def test_single_call_that_raises_is_rolled_back(data_dir):
    with pytest.raises(ZeroDivisionError):
        write_in_group("test", lambda: Meta.create(key="a", value="x") and fail())
    assert stored() == set()
    assert write_in_group("test", lambda: 7) == 7


def test_block_that_raises_undoes_only_its_own_changes(callers, commits):
    with write("test"):
        callers.call("a")
        callers.call("b", fail)
        callers.call("c")
    callers.join()
    assert isinstance(callers.outcomes.pop("b"), ZeroDivisionError)
    assert callers.outcomes == {"a": "a", "c": "c"}
    assert stored() == {"a", "c"}


def test_no_caller_returns_before_the_commit(callers, monkeypatch):
    original = type(database).commit
    outcomes_at_commit = []

    def commit(self):
        if len(group_commit._waiting) == 0:
            outcomes_at_commit.append(dict(callers.outcomes))
        original(self)

    with write("test"):
        for key, block in {"a": lambda: None, "b": fail, "c": lambda: None}.items():
            callers.call(key, block)
        monkeypatch.setattr(type(database), "commit", commit)
    callers.join()
    assert outcomes_at_commit == [{}]
    assert callers.outcomes.keys() == {"a", "b", "c"}


def test_failed_commit_fails_every_call_of_the_group(callers, monkeypatch):
    original = type(database).commit

    def commit(self):
        if group_commit._waiting:
            return original(self)
        raise OperationalError("disk I/O error")

    with write("test"):
        for key, block in {"a": lambda: None, "b": fail}.items():
            callers.call(key, block)
        monkeypatch.setattr(type(database), "commit", commit)
    callers.join()
    assert [type(outcome) for outcome in callers.outcomes.values()] == [OperationalError] * 2
    monkeypatch.undo()
    assert stored() == set()
    assert write_in_group("test", lambda: 7) == 7


def test_transaction_that_sqlite_rolled_back_fails_every_call(callers):
    def roll_back():
        database.execute_sql("ROLLBACK")
        raise OperationalError("database or disk is full")

    with write("test"):
        callers.call("a")
        callers.call("b", roll_back)
        callers.call("c")
    callers.join()
    assert {str(outcome) for outcome in callers.outcomes.values()} == {"database or disk is full"}
    assert stored() == set()


def test_calls_during_a_commit_form_the_next_group(callers, commits):
    entered, leave = threading.Event(), threading.Event()
    callers.call("a", lambda: entered.set() or (leave.wait(20) and None))
    assert entered.wait(20)
    callers.call("b")
    callers.call("c")
    leave.set()
    callers.join()
    assert stored() == {"a", "b", "c"}
    assert len(commits) == 2


def test_block_runs_with_the_context_of_its_caller(callers):
    variable = contextvars.ContextVar("variable", default="none")
    values = []

    def work():
        variable.set("own")
        write_in_group("test", lambda: values.append(variable.get()))
        database.close()

    with write("test"):
        callers.call("a", lambda: values.append(variable.get()))
        callers.start(work)
    callers.join()
    assert values == ["none", "own"]


def test_closed_database_fails_the_call_and_not_the_next_one(data_dir, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("polyjob.db.database._lock_fd", None)
        with pytest.raises(RuntimeError, match="not open"):
            write_in_group("test", lambda: 7)
    assert write_in_group("test", lambda: 7) == 7


def test_call_inside_a_transaction_is_refused(data_dir):
    with write("test"), pytest.raises(RuntimeError, match="part of another transaction"):
        write_in_group("test", lambda: 7)
    assert write_in_group("test", lambda: 7) == 7
