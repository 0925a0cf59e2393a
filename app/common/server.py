"""gunicorn, started from code with settings that were checked first, and guarded against slow clients."""

import errno
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn, ThreadWorker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Seconds an idle connection is kept: more than the 3 s between MinIO's polls of its queue.
KEEP_ALIVE = 15

#: Seconds for a request's head to come, for an answer to go, and for what is left of a body nobody wanted.
HEAD_SECONDS = 10
ANSWER_SECONDS = 60
READ_OUT_SECONDS = 5

#: Bytes of a body nobody wanted that are read all the same.
MOST_DISCARDED = 64 * 2**20


class PlainLogger(Logger):  # type: ignore[misc]
    """Leaves gunicorn's messages to the handlers of `app.common.logs`."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True


class TimedSocket(socket.socket):
    """A connection that has to bring what is read from it by a deadline, however little it sends at a time."""

    _deadline = 0.0

    def allow(self, seconds: float) -> None:
        """Give the client so many seconds from now for what is read next."""
        self._deadline = time.monotonic() + seconds

    def setblocking(self, flag: bool) -> None:
        self.settimeout(ANSWER_SECONDS if flag else 0)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        self.settimeout(max(0.001, self._deadline - time.monotonic()))
        try:
            return super().recv(bufsize, flags)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the client sent too slowly") from error
        finally:
            self.settimeout(ANSWER_SECONDS)


class GuardedWorker(ThreadWorker):  # type: ignore[misc]
    """Spends no thread on a connection that sends nothing, and a bounded time on one that sends slowly."""

    def enqueue_req(self, conn: TConn) -> None:
        if isinstance(conn.sock, TimedSocket):
            super().enqueue_req(conn)
            return
        conn.sock = TimedSocket(fileno=conn.sock.detach())
        conn.sock.setblocking(False)
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def handle(self, conn: TConn) -> Any:
        conn.sock.allow(HEAD_SECONDS)
        return super().handle(conn)


class Server(BaseApplication):  # type: ignore[misc]
    """Serves the application that `create_app` returns, created in each worker process.

    A client has `body_seconds` from the end of its request's head to bring the body.
    """

    def __init__(self, create_app: Callable[[], Flask], *, body_seconds: float, **options: Any) -> None:
        self._create_app = create_app
        self._body_seconds = body_seconds
        self._options = {
            "worker_class": GuardedWorker,
            "keepalive": KEEP_ALIVE,
            "control_socket_disable": True,
            "accesslog": None,
            "logger_class": PlainLogger,
            # A key of 1,024 bytes takes 3,072 in a path.
            "limit_request_line": 8190,
            **options,
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        app = self._create_app()
        app.wsgi_app = timed(app.wsgi_app, self._body_seconds)  # type: ignore[assignment,method-assign]
        return app


def timed(app: "WSGIApplication", body_seconds: float) -> "WSGIApplication":
    """Bound the time for a body, and read what the caller still sends when the answer is known.

    Closed upon unread data, a connection loses the answer too.
    """

    def reads_out(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        connection: TimedSocket = environ["gunicorn.socket"]
        connection.allow(body_seconds)
        answer = app(environ, start_response)
        connection.allow(READ_OUT_SECONDS)
        left = MOST_DISCARDED
        with suppress(OSError):
            while left > 0 and (chunk := environ["wsgi.input"].read(min(left, 2**16))):
                left -= len(chunk)
        return answer

    return reads_out
