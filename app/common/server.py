"""waitress, started from code: a request costs a thread only when all of it has come.

Until then a client costs a connection and, where its token is right, the memory of its body. All three are bounded:
the seconds for a head and for a body, the connections, and the bytes of all bodies under way together. A body that
is not wanted (no token, too large, no room) is read out and dropped, so that its sender gets the answer.

A client that was answered and has more to ask is mostly quick about it, so a thread stays with its connection for a
moment: what comes then is read and answered without the loop and its wakes. Half of the threads may, and none while
somebody waits for one.
"""

import json
import logging
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from types import FrameType
from typing import Any

from waitress import wasyncore
from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask
from waitress.utilities import BadRequest, Error

from app.common.web import Service, error_body

#: Seconds an idle connection is kept: more than the 3 s between MinIO's polls of its queue.
KEEP_ALIVE = 15

#: Seconds for a request's head to come, for an answer to go, and for what is left of a body nobody wanted.
HEAD_SECONDS = 10
ANSWER_SECONDS = 60
READ_OUT_SECONDS = 5

#: Bytes of a body nobody wanted that are read all the same.
MOST_DISCARDED = 64 * 2**20

#: Bytes of a request's head: a key of 1,024 bytes takes 3,072 in a path.
MAX_HEAD_BYTES = 16384

#: Connections held at once, where the process may open as many files, and files left for everything else: the
#: face service's slots alone take up to 512 (Python's mmap keeps one of its own).
MOST_CONNECTIONS = 4000
OTHER_FILES = 800

#: Bytes of an answer kept in memory for its reader; no answer is larger, so none goes to a file.
MAX_ANSWER_BYTES = 2**30

READ_BYTES = 2**16

#: Seconds for which a thread stays with a connection that it has answered.
STAY = 0.05


def serve(
    app: Service,
    host: str,
    port: int,
    *,
    threads: int,
    max_body_bytes: int,
    bodies_bytes: int,
    body_seconds: float,
    grace: float,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in hand for up to `grace` seconds.

    A body may have `max_body_bytes`, all bodies under way together `bodies_bytes`, and each has `body_seconds` from
    the end of its head. Call in the main thread.
    """
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # its warnings are a line per waiting request
    server = Server(app, _listen(host, port), threads, Gate(app, max_body_bytes, bodies_bytes), body_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    logging.getLogger(__name__).info("Listening on %s port %d", host, port)
    server.serve(grace)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; `::` takes IPv4 too."""
    [(family, *_), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    dual = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=dual)


def _most_connections() -> int:
    """As many as may be held: every one is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(16, min(MOST_CONNECTIONS, soft - OTHER_FILES))


class Gate:
    """Decides when a head is complete whether its body is kept, so that no byte of another costs memory."""

    def __init__(self, app: Service, max_body_bytes: int, bodies_bytes: int) -> None:
        self._app = app
        self.max_body_bytes = max_body_bytes
        self._left = max(bodies_bytes, max_body_bytes)
        self._lock = threading.Lock()

    def admits(self, path: str, authorization: str | None) -> bool:
        """Whether a body sent there with this `Authorization` is worth keeping."""
        return self._app.admits(path, authorization)

    def take(self, size: int) -> bool:
        """Reserve memory for a body; False if there is none now."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Give back what was reserved."""
        with self._lock:
            self._left += size


class Body:
    """A request's body in memory, as far as it is kept; to waitress, one of its buffers."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._size = 0
        self._file = BytesIO()

    def __len__(self) -> int:
        return self._size

    @property
    def dropped(self) -> bool:
        """Whether its bytes are gone, for they were too many or unwanted."""
        return self._size > self.most

    def append(self, data: bytes) -> None:
        self._size += len(data)
        if self.dropped:
            self._file = BytesIO()
        else:
            self._file.write(data)

    def getfile(self) -> BytesIO:
        self._file.getvalue()  # cuts its memory to size, so that to read all of it copies nothing
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        self._file = BytesIO()


class JSONError(Error):  # type: ignore[misc]
    """What waitress says by itself, in the form of every other error."""

    def __init__(self, status: int, reason: str, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self._word = status, reason, code

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:  # noqa: ARG002
        headers = [("Content-Type", "application/json")] + ([("Retry-After", "1")] if self.code == 503 else [])
        return f"{self.code} {self.reason}", headers, json.dumps(error_body(self._word, self.body)).encode()


NO_ROOM = (
    503,
    "Service Unavailable",
    "busy",
    "Too many bytes of requests are under way; send this again in a moment.",
)


class Request(HTTPRequestParser):  # type: ignore[misc]
    """A request as it comes in."""

    error: Error | None
    completed: bool

    def __init__(self, adj: Any, gate: Gate) -> None:
        super().__init__(adj)
        self._gate = gate
        self._taken, self._closed = 0, False
        self.body: Body | None = None

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # Python makes no number of more than 4,300 digits
            raise ParsingError("Content-Length is invalid") from error
        if self.version not in ("1.0", "1.1"):
            raise ParsingError(f"HTTP {self.version} is not spoken here")
        if self.body_rcv is not None:
            self.body = self.body_rcv.buf = Body(self._kept())

    def received(self, data: bytes) -> int:
        consumed = int(super().received(data))
        if self.error is None and not self.completed and self._is_mostly_framing():
            self.error, self.completed = BadRequest("There is more framing than body"), True
        if self.error is None and self.body is not None and self.unwanted and self._is_enough():
            # Flask answers, by what the head says; what is still to come is not read.
            self.headers["CONTENT_LENGTH"] = str(max(self.content_length, len(self.body)))
            self.headers["CONNECTION"] = "close"
            self.expect_continue, self.completed = False, True
        if self.completed and self._no_room:
            self.error = JSONError(*NO_ROOM)
        elif self.error is not None and not isinstance(self.error, JSONError):
            self.error = JSONError(self.error.code, self.error.reason, "bad_request", f"{self.error.body}.")
        if self.error is not None or self.body is None:
            self.expect_continue = False  # there is no body to wait for
        return consumed

    @property
    def unwanted(self) -> bool:
        """Whether nothing of the body is kept."""
        return self.body is not None and (self.body.most < self.content_length or self.body.dropped)

    def close(self) -> None:
        """Let go of the body."""
        super().close()
        self._closed = True
        self._give_back()

    def _give_back(self) -> None:
        taken, self._taken = self._taken, 0
        self._gate.give(taken)

    _no_room = False

    def _kept(self) -> int:
        """Bytes of the body that are kept: all, or none."""
        size = self._gate.max_body_bytes if self.chunked else self.content_length
        path = "/" + self.path.lstrip("/") if self.path.startswith("/") else self.path  # as the application is told
        if size > self._gate.max_body_bytes or not self._gate.admits(path, self.headers.get("AUTHORIZATION")):
            return -1
        if not self._gate.take(size):
            self._no_room = True
            return -1
        self._taken = size
        if self._closed:  # meanwhile, by the loop, while a thread reads
            self._give_back()
        return size

    def _is_mostly_framing(self) -> bool:
        """Whether chunks are all sizes, extensions and trailers, which are kept and read again with each piece."""
        held = len(self.body or b"")
        return bool(self.chunked and self.body_bytes_received - held > MAX_HEAD_BYTES + held)

    def _is_enough(self) -> bool:
        """Whether to stop reading what is dropped: it is too much, or its sender waits to be told to send it."""
        coming = max(self.content_length, len(self.body or b""))
        return self.headers_finished and (coming > MOST_DISCARDED or self.expect_continue)


class Task(WSGITask):  # type: ignore[misc]
    """A request's answer, whose head goes with the first bytes of its body: one packet less to wake for."""

    def build_response_header(self) -> bytes:
        self.channel.hold()
        return bytes(super().build_response_header())

    def finish(self) -> None:
        super().finish()
        self.channel.let_go()


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection, with the time since which it has been in its state."""

    task_class = Task

    request: Request | None
    requests: list[Request]

    #: Whether what is written next waits for what follows, and what waits.
    _holds, _held = False, b""

    def __init__(self, server: "Server", *arguments: Any, **options: Any) -> None:
        self.parser_class = partial(Request, gate=server.gate)
        self.since = time.monotonic()
        self._answered = False
        self.in_hand = self._waited_for = False
        self._taking = threading.Lock()
        super().__init__(server, *arguments, **options)

    def received(self, data: bytes) -> bool:
        begun, in_body = self.request is not None, self._in_body
        kept = bool(super().received(data))
        if (not begun and self.request is not None) or self._in_body is not in_body:
            self.since = time.monotonic()
        return kept

    def service(self) -> None:
        """Answer what has come, and what comes while this thread stays; then the loop has the connection again."""
        self.in_hand = True
        try:
            with self.server.holding(self) as stays:
                self._answer()
                while stays and self.server.nobody_waits and (self.requests or self._next_comes()):
                    self._answer()
        except BaseException:
            self.will_close = True
            raise
        finally:
            more = self.connected and not self.will_close and bool(self.requests)
            if not more:
                self._forget()
            self.in_hand = False  # another thread may have it from here on
            if more:
                self.server.add_task(self)
            else:
                self.server.pull_trigger()

    def _answer(self) -> None:
        super().service()
        self.since, self._answered = time.monotonic(), True

    def _next_comes(self) -> bool:
        """Wait for the next request, for a moment; whether all of it is there."""
        if self.total_outbufs_len or not self.connected or self.will_close or self.close_when_flushed:
            return False
        coming, until = select.poll(), self.since + STAY
        self._waited_for = True
        try:
            coming.register(self.socket, select.POLLIN)
            while not self.requests and self.server.nobody_waits and (left := until - time.monotonic()) > 0:
                if not coming.poll(left * 1000) or not (data := self.socket.recv(READ_BYTES)):
                    break  # the loop finds the end, too, and closes the connection
                self.received(data)
        except Exception as error:
            # Lost; where the loop saw it first and closed it, there is no socket any more.
            if self.connected and not isinstance(error, OSError):
                raise
        finally:
            self._waited_for = False
        return bool(self.requests)

    def readable(self) -> bool:
        return not self.in_hand and bool(super().readable())

    def writable(self) -> bool:
        return not self._waited_for and bool(super().writable())

    def handle_write(self) -> None:
        # waitress asks for no lock where no request is known, for only the loop could know of one.
        with self.outbuf_lock:
            super().handle_write()

    def send(self, data: bytes, do_close: bool = True) -> int:  # noqa: ARG002
        """Send some of it; a connection found lost is closed by the loop alone, which may be looking at it."""
        return int(super().send(data, do_close=False))

    def send_continue(self) -> None:
        try:
            super().send_continue()
        except (OSError, AttributeError):  # lost; where the loop has closed it, there is no request any more
            self.will_close = True

    def hold(self) -> None:
        """Have what is written next sent with what follows."""
        self._holds = True

    def let_go(self) -> None:
        """Send what is held, for nothing follows."""
        if self._held:
            self.write_soon(b"")

    def write_soon(self, data: bytes | ReadOnlyFileBasedBuffer) -> int:
        if self._holds:
            self._holds, self._held = False, data
            return len(data)
        held, self._held = self._held, b""
        if isinstance(data, ReadOnlyFileBasedBuffer):  # a file, which goes as it is
            super().write_soon(held)
            return int(super().write_soon(data))
        return int(super().write_soon(held + data))

    def handle_close(self) -> None:
        super().handle_close()
        self._forget_begun()  # those that have come whole are let go by the thread that has them, or will

    def _forget(self) -> None:
        """Let go of requests that nobody will answer."""
        with self.requests_lock:
            left, self.requests = self.requests, []
        for request in left:
            request.close()
        if not self.connected:
            self._forget_begun()

    def _forget_begun(self) -> None:
        # A lock of its own: the loop closes with `outbuf_lock` in hand, which others take after `requests_lock`.
        with self._taking:
            begun, self.request = self.request, None
        if begun is not None:
            begun.close()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not (self.in_hand or self.requests or self._in_body or self.total_outbufs_len)

    def overdue(self, body_seconds: float) -> bool:
        """Whether its client took longer than it may for what it does."""
        if self.in_hand or self.requests:
            return False
        if self.request is not None and self.request.headers_finished:
            allowed = READ_OUT_SECONDS if self.request.unwanted else body_seconds
        elif self.total_outbufs_len:
            allowed = ANSWER_SECONDS
        else:
            allowed = HEAD_SECONDS if self.request is not None or not self._answered else KEEP_ALIVE
        return time.monotonic() - self.since > allowed

    @property
    def _in_body(self) -> bool:
        return self.request is not None and bool(self.request.headers_finished)


class Server(TcpWSGIServer):  # type: ignore[misc]
    """waitress on a socket, with deadlines and a stop that finishes what is in hand."""

    channel_class = Channel

    def __init__(self, app: Service, listening: socket.socket, threads: int, gate: Gate, body_seconds: float) -> None:
        self.gate = gate
        self._body_seconds = body_seconds
        self._stopping = False
        self._held = threading.local()
        self._stays = threading.BoundedSemaphore(threads // 2)
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.set_thread_count(threads)
        super().__init__(
            app,
            _sock=listening,
            dispatcher=dispatcher,
            bind_socket=False,
            sockinfo=(listening.family, listening.type, listening.proto, listening.getsockname()),
            sockets=[listening],
            asyncore_use_poll=True,  # select() ends at 1,024 files
            cleanup_interval=1,
            connection_limit=_most_connections(),
            ident="",
            log_socket_errors=False,
            max_request_body_size=2**62,  # the gate's, which says so in JSON
            max_request_header_size=MAX_HEAD_BYTES,
            outbuf_overflow=MAX_ANSWER_BYTES,
            recv_bytes=READ_BYTES,
        )

    @contextmanager
    def holding(self, channel: Channel) -> Iterator[bool]:
        """Have a channel in the hands of this thread; whether it may stay with it."""
        self._held.channel = channel
        stays = self._stays.acquire(blocking=False)
        try:
            yield stays
        finally:
            self._held.channel = None
            if stays:
                self._stays.release()

    @property
    def nobody_waits(self) -> bool:
        """Whether nobody waits for a thread, or for the end of the process."""
        return not (self.task_dispatcher.queue or self._stopping)

    def add_task(self, channel: Channel) -> None:
        """Have a thread answer a channel, unless one is at it."""
        if not channel.in_hand:
            super().add_task(channel)

    def pull_trigger(self) -> None:
        """Wake the loop, unless for a channel that is in this thread's hands and has nothing to be sent."""
        channel = getattr(self._held, "channel", None)
        if channel is None or channel.total_outbufs_len:
            super().pull_trigger()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Have `serve` come to its end."""
        self._stopping = True
        self.pull_trigger()

    def serve(self, grace: float) -> None:
        """Serve until `stop`, then take nothing new and finish what is in hand for up to `grace` seconds."""
        while not self._stopping:
            self._turn()
        self.accepting = False
        wasyncore.dispatcher.close(self)  # the listening socket alone; what wakes the loop stays
        deadline = time.monotonic() + grace
        while self.active_channels and time.monotonic() < deadline:
            for channel in list(self.active_channels.values()):
                channel.will_close = channel.will_close or channel.idle
            self._turn()
        self.task_dispatcher.shutdown(timeout=1)

    def maintenance(self, now: float) -> None:  # noqa: ARG002
        """End the connections of clients that take too long."""
        for channel in list(self.active_channels.values()):
            if channel.overdue(self._body_seconds):
                channel.will_close = True

    def _turn(self) -> None:
        self.asyncore.loop(timeout=1, use_poll=True, map=self._map, count=1)
