"""gunicorn's threaded worker, changed so that a slow client does not occupy a thread.

- A worker leaves a new connection to another one that has fewer.
- The main loop reads each request until its header and small body are complete. Only then a thread gets it.
- If a client reads its response too slowly, the thread turns to other requests, and the main loop waits for the client.
- Larger and chunked bodies are read by threads of a separate pool, and only as far as the application reads them. A
  response before the end of the body, such as a 401, closes the connection.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import selectors
import socket
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.workers.gthread import ThreadWorker

from polyjob.addresses import is_local, network_of
from polyjob.connections import (
    BODY_IS_LATE,
    CONTINUE,
    MAX_BODY_SECONDS,
    MAX_HEADER_BYTES,
    MAX_HEADER_SECONDS,
    MAX_SEND_SECONDS,
    Connection,
    Outbox,
    PendingResponse,
    Phase,
)
from polyjob.server.connection_counts import counts

MAX_CONNECTIONS = 2000
"""Connections of one web process; fewer if the limit of open files is low. A new connection beyond it closes the one
that has waited longest."""
MAX_CONNECTIONS_OF_ADDRESS = 400
"""Connections of one address; an IPv6 network of 64 bits counts as one address. This machine's own addresses and
trusted proxies have no bound, because they stand for many clients."""
MAX_UPLOADS_AT_ONCE = 16
"""Requests with a larger body that one web process reads at once. Further ones wait."""

_CLOSE_SECONDS = 2.0
"""Time that a client has to close its side."""
_CLOSE_SECONDS_WHILE_STOPPING = 0.3
_CLOSE_BYTES = 1 << 20
"""Unread bytes of a client that are discarded before its connection is closed at once."""
_STOP_IDLE_SECONDS = 1.0
_SWEEP_SECONDS = 0.25
_YIELD_SECONDS = 0.005
"""Time that other workers have to accept a connection before this one does."""
_RECEIVE_SIZE = 64 << 10
_FILES_PER_THREAD = 3
_RESERVED_FILES = 100
_RESOURCE_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_IGNORED_ERRORS = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED})

_BLOCKED = object()
"""The result of a thread that has not sent the complete response yet."""


class Worker(ThreadWorker):
    """All methods run in the thread of the main loop, except `handle`, `handle_request` and the methods they call."""

    _accepting: bool
    alive: bool
    worker_connections: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: dict[Connection, None] = {}
        """Connections without a thread, the ones that have waited longest first."""
        self._per_network: Counter[str] = Counter()
        self._next_sweep = 0.0
        self._accepts_again_at = 0.0
        self._has_yielded = False
        """The worker has left a connection to the others, and accepts the next one in any case."""
        self._serves_proxies = "*" in self.cfg.forwarded_allow_ips

    def init_process(self) -> None:
        # gunicorn's lookup of a setting takes two calls, and each request looks up 19 of them.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        self.upload_pool = ThreadPoolExecutor(max_workers=MAX_UPLOADS_AT_ONCE)
        reserved = _FILES_PER_THREAD * (self.cfg.threads + MAX_UPLOADS_AT_ONCE) + _RESERVED_FILES
        limit = raise_file_limit(MAX_CONNECTIONS + reserved)
        self.worker_connections = max(1, min(self.worker_connections, limit - reserved))
        super().init_process()

    # Connections.

    def accept(self, listener: Any) -> None:
        if not self._has_yielded and not counts.has_fewest(self.age):
            self._has_yielded = True
            self._accepts_again_at = time.monotonic() + _YIELD_SECONDS
            self.set_accept_enabled(False)
            return
        self._has_yielded = False
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno in _RESOURCE_ERRORS:
                self._make_room()
            elif error.errno not in _IGNORED_ERRORS:
                raise
            return
        address = client[0] if client else ""
        network = network_of(address)
        is_bounded = not (self._serves_proxies or is_local(address))
        if is_bounded and self._per_network[network] >= MAX_CONNECTIONS_OF_ADDRESS:
            sock.close()
            return
        connection = Connection(self.cfg, sock, client, listener.getsockname())
        connection.network = network
        self.nr_conns += 1
        self._per_network[network] += 1
        self._wait(connection, Phase.REQUEST, MAX_HEADER_SECONDS)
        if self.nr_conns >= self.worker_connections:
            self._make_room()

    def set_accept_enabled(self, enabled: bool) -> None:
        if not enabled or time.monotonic() >= self._accepts_again_at:
            super().set_accept_enabled(enabled)

    def _make_room(self) -> None:
        for connection in self._waiting:
            self._discard(connection)
            return

    def _discard(self, connection: Connection) -> None:
        """Close a waiting connection."""
        self._stop_waiting(connection)
        self.nr_conns -= 1
        self._per_network[connection.network] -= 1
        if not self._per_network[connection.network]:
            del self._per_network[connection.network]
        self._close_answer(connection)
        connection.close()

    def _close_gently(self, connection: Connection) -> None:
        """Close a connection once the client has closed its side.

        Closing it with unread data would make the kernel drop the response.
        """
        try:
            connection.sock.setblocking(False)
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._discard(connection)
        else:
            self._wait(connection, Phase.CLOSING, _CLOSE_SECONDS if self.alive else _CLOSE_SECONDS_WHILE_STOPPING)

    # Waiting for clients.

    def _wait(self, connection: Connection, phase: Phase, seconds: float) -> None:
        connection.phase = phase
        connection.deadline = time.monotonic() + seconds
        self._stop_waiting(connection)
        self._waiting[connection] = None
        events = selectors.EVENT_WRITE if phase is Phase.WRITABLE else selectors.EVENT_READ
        self.poller.register(connection.sock, events, lambda sock: self._client_is_ready(connection))

    def _stop_waiting(self, connection: Connection) -> None:
        if self._waiting.pop(connection, self) is None:
            self.poller.unregister(connection.sock)

    def _client_is_ready(self, connection: Connection) -> None:
        if connection not in self._waiting:
            return  # closed earlier in this round of the loop
        if connection.phase is Phase.WRITABLE:
            self._give_to_thread(connection, self.tpool)
            return
        try:
            data = connection.sock.recv(_RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if connection.phase is Phase.CLOSING:
            connection.drained += len(data)
            if not data or connection.drained > _CLOSE_BYTES:
                self._discard(connection)
        elif data:
            self._receive(connection, data)
        else:
            self._discard(connection)

    def _receive(self, connection: Connection, data: bytes) -> None:
        """Process received data of a request."""
        had_header, was_idle = connection.has_header, connection.is_idle
        connection.add(data)
        if connection.is_complete:
            self._give_to_thread(connection, self.tpool if connection.has_small_body else self.upload_pool)
        elif not connection.has_header and len(connection.received) > MAX_HEADER_BYTES:
            self._refuse(connection, 431, "Request Header Fields Too Large")
        elif connection.has_header and not had_header:
            self._wait(connection, Phase.REQUEST, MAX_BODY_SECONDS)
            if connection.expects_to_continue:
                connection.has_continued = True
                with contextlib.suppress(OSError):
                    connection.sock.send(CONTINUE)
        elif was_idle:
            self._wait(connection, Phase.REQUEST, MAX_HEADER_SECONDS)

    def _refuse(self, connection: Connection, status: int, reason: str) -> None:
        with contextlib.suppress(OSError):
            util.write_error(connection.sock, status, reason, "")
        self._close_gently(connection)

    def murder_pending(self) -> None:
        """Close the connections whose deadline has passed."""
        moment = time.monotonic()
        if moment < self._next_sweep:
            return
        self._next_sweep = moment + _SWEEP_SECONDS
        for connection in [waiting for waiting in self._waiting if waiting.deadline <= moment]:
            # The client may have read too little for the socket to be reported as writable.
            if connection.phase is Phase.WRITABLE and connection.takes_more():
                connection.deadline = moment + MAX_SEND_SECONDS
            elif connection.phase is Phase.REQUEST and not connection.is_idle:
                self._refuse(connection, 408, "Request Timeout")
            else:
                self._discard(connection)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        if self.alive:
            counts.publish(self.age, self.nr_conns)
            if self._has_yielded and not self._accepting and self.nr_conns < self.worker_connections:
                timeout = min(timeout, max(0.0, self._accepts_again_at - time.monotonic()))
        else:
            counts.withdraw(self.age)
            timeout = min(timeout, _SWEEP_SECONDS)
        is_offered = self._has_yielded and self._accepting
        super().wait_for_and_dispatch_events(timeout)
        if is_offered and self._accepting:  # another worker has taken the connection
            self._has_yielded = False

    def _cap_keepalive(self, deadline: float) -> None:
        """While the worker stops, give each connection a moment for a request that is on its way."""
        latest = time.monotonic() + _STOP_IDLE_SECONDS
        for connection in self._waiting:
            if connection.phase is not Phase.WRITABLE:
                connection.deadline = min(connection.deadline, latest)

    # Threads.

    def _give_to_thread(self, connection: Connection, pool: ThreadPoolExecutor) -> None:
        self._stop_waiting(connection)
        if connection.phase is Phase.REQUEST:
            connection.hand_over()
        future = pool.submit(self.handle, connection)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, connection, done))

    def finish_request(self, connection: Connection, future: Future[Any]) -> None:
        """Continue with a connection after a thread has finished with it."""
        result = False if future.cancelled() or future.exception() else future.result()
        if result is _BLOCKED:
            connection.takes_more()
            self._wait(connection, Phase.WRITABLE, MAX_SEND_SECONDS)
            return
        if not result:
            self._close_gently(connection)
            return
        connection.sock.setblocking(False)
        self._wait(connection, Phase.REQUEST, self.cfg.keepalive)
        rest = connection.next_request()
        if rest:
            self._receive(connection, rest)

    def handle(self, connection: Connection) -> Any:
        """Answer a request or continue a response, in a thread.

        Return whether another request may follow, or `_BLOCKED`.
        """
        if connection.answer is None:
            return super().handle(connection)
        try:
            return self._keepalive_after(connection, self._send(connection))
        except OSError as error:
            self.log.debug("The client or the follow has ended: %s", error)
        except Exception:
            self.log.exception("Error while sending a response")
        return False

    def handle_request(self, request: Any, connection: Connection) -> Any:
        connection.parser.unreader.expects_to_continue = request._expected_100_continue and not connection.has_continued
        request._expected_100_continue = False  # gunicorn would send it before the application reads the body
        response, environ = wsgi.create(request, connection.sock, connection.client, connection.server, self.cfg)
        environ["wsgi.multithread"] = True
        environ[BODY_IS_LATE] = connection.is_body_late
        self._count_request(response)
        outbox = response.sock = Outbox(connection.sock)
        body = self.wsgi(environ, response.start_response)
        if connection.is_body_late and not connection.has_whole_body():
            response.force_close()
        is_file = isinstance(body, environ["wsgi.file_wrapper"]) and response.sendfile(body)
        connection.answer = PendingResponse(response, body, iter(()) if is_file else iter(body), outbox)
        try:
            return self._send(connection)
        except (OSError, StopIteration):
            raise
        except Exception:
            if response.headers_sent:
                self.log.exception("Error while sending a response")
                return False
            raise

    def _count_request(self, response: Any) -> None:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        if not self.alive or not self.cfg.keepalive:
            response.force_close()

    def _send(self, connection: Connection) -> Any:
        """Send as much of the response as the client reads."""
        answer = connection.answer
        assert answer is not None
        connection.sock.setblocking(False)
        try:
            if not answer.send():
                return _BLOCKED
        except BaseException:
            self._close_answer(connection)
            raise
        self._close_answer(connection)
        return not answer.response.should_close()

    def _keepalive_after(self, connection: Connection, keepalive: Any) -> Any:
        if keepalive is _BLOCKED:
            return _BLOCKED
        if keepalive and connection.drop_request():
            return True
        connection.sock.setblocking(True)
        return super()._keepalive_after(connection, keepalive)

    def _close_answer(self, connection: Connection) -> None:
        answer, connection.answer = connection.answer, None
        if answer is not None:
            try:
                answer.close()
            except Exception:
                self.log.exception("Error while closing a response")


def raise_file_limit(count: int) -> int:
    """Raise the limit of open files of this process to `count`, as far as allowed. Return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return count
    if soft < count:
        soft = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
