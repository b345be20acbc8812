"""Group commit: one transaction and one sync for several requests that write at the same time.

A commit costs a sync, and one process after the other holds the write lock. So the threads that wait for the lock form
a group. One of them, the leader, takes the lock, runs the blocks of all of them, and commits once.

- Each block runs in a savepoint. If it raises, only its own changes are undone.
- No caller learns the outcome of its block, be it a result or an exception, before the commit is synced. This also
  holds for an exception that reports a row of another member, such as the stored response to the same request.
- If the commit fails, all blocks of the group have failed.

Readers see only what is synced, as with any other write. A commit without a sync, followed by one sync for all that
wait, would release the lock earlier. But then a status could be shown that a power cut takes back.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from polyjob.db.database import database, write

Result = TypeVar("Result")

_lock = threading.Lock()
"""Guards the next two. No thread waits for anything while it holds this lock."""
_waiting: list[_Member] = []
"""The members of the next group, in the order of their calls. The first one leads it."""
_has_leader = False


class _Member:
    """One call of `write_in_group`."""

    def __init__(self, name: str, block: Callable[[], Any]) -> None:
        self.name, self._block = name, block
        self._context = contextvars.copy_context()
        self._turn = threading.Lock()
        """Locked until it is this member's turn. An event would do the same by several locks."""
        self._turn.acquire()
        self.is_done = False
        self.error: BaseException | None = None
        self._result: Any = None

    def wait_for_turn(self) -> None:
        """Wait until the block is done, or until this member has to lead the next group."""
        self._turn.acquire()

    def give_turn(self) -> None:
        self._turn.release()

    def run(self) -> None:
        """Run the block, in the context of its caller."""
        try:
            self._result = self._context.run(self._block)
        except BaseException as error:
            self.error = error

    def finish(self, failure: BaseException | None) -> None:
        """Release the caller. With `failure`, nothing of the group was committed."""
        self.error = failure or self.error
        self.is_done = True
        self.give_turn()

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self._result


def write_in_group(name: str, block: Callable[[], Result]) -> Result:
    """Run the block in a transaction that it shares with simultaneous calls, and return its result once it is synced.

    Raises what the block raises, and whatever a commit raises. Otherwise as `database.write`. The block may run in
    another thread, but with the context variables of its caller. Must not be called inside `database.write`: the leader
    of the group would wait for that transaction, and the transaction for the leader.
    """
    global _has_leader
    if database.in_transaction():
        raise RuntimeError("a group commit cannot be part of another transaction")
    member = _Member(name, block)
    with _lock:
        _waiting.append(member)
        leads, _has_leader = not _has_leader, True
    if not leads:
        member.wait_for_turn()
    if not member.is_done:
        _lead(member)
    result: Result = member.result()
    return result


def _lead(leader: _Member) -> None:
    """Run and commit the blocks of all members that wait when the lock is acquired, then let the next group begin."""
    global _has_leader
    members, failure = [leader], None
    try:
        with write(leader.name):
            with _lock:
                members, _waiting[:] = _waiting[:], []
            _run(members)
    except BaseException as error:
        failure = error
    with _lock:
        _waiting[:] = [member for member in _waiting if member is not leader]
        if _waiting:
            _waiting[0].give_turn()
        else:
            _has_leader = False
    for member in members:
        member.finish(failure)


def _run(members: list[_Member]) -> None:
    """Run the blocks of all members in the open transaction. Raises if all of it has to be rolled back."""
    if len(members) == 1:
        members[0].run()
        if members[0].error is not None:
            raise members[0].error
        return
    for member in members:
        database.execute_sql("SAVEPOINT member")
        member.run()
        if member.error is not None:
            if not database.connection().in_transaction:  # SQLite has rolled it back, as on a full disk
                raise member.error
            database.execute_sql("ROLLBACK TO member")
        database.execute_sql("RELEASE member")
