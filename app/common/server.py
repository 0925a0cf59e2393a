"""gunicorn, started from code with settings that were checked first."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Seconds an idle connection is kept: more than the 3 s between MinIO's polls of its queue.
KEEP_ALIVE = 15

#: Bytes of a body nobody wanted that are read all the same.
MOST_DISCARDED = 64 * 2**20


class PlainLogger(Logger):  # type: ignore[misc]
    """Leaves gunicorn's messages to the handlers of `app.common.logs`."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True


class Server(BaseApplication):  # type: ignore[misc]
    """Serves the application that `create_app` returns, created in each worker process."""

    def __init__(self, create_app: Callable[[], Flask], **options: Any) -> None:
        self._create_app = create_app
        self._options = {
            "worker_class": "gthread",
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
        app.wsgi_app = reading_out(app.wsgi_app)  # type: ignore[assignment,method-assign]
        return app


def reading_out(app: "WSGIApplication") -> "WSGIApplication":
    """Read what the caller still sends: closed upon unread data, a connection loses the answer too."""

    def reads_out(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        answer = app(environ, start_response)
        left = MOST_DISCARDED
        while left > 0 and (chunk := environ["wsgi.input"].read(min(left, 2**16))):
            left -= len(chunk)
        return answer

    return reads_out
