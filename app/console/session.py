"""Who may see what: a browser that signed in, or a program with the operator's token; nobody else sees anything."""

import hmac
import secrets
import time
from collections import deque
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from flask import Response, abort, g, redirect, render_template, request, session, url_for
from pydantic import SecretStr
from werkzeug.wrappers import Response as Answer

from app.common.openapi import described, is_open
from app.common.web import Service, Token
from app.console.audit import Audit
from app.console.settings import ConsoleSettings

#: For how long a browser stays signed in, however busy it is.
SIGNED_IN = timedelta(hours=8)

HTML = "text/html"

#: Wrong tokens in a minute, from everywhere, after which nobody is let in for the rest of it.
MOST_WRONG = 20

#: Largest form: a name of 1,024 characters takes 3,072 and more.
MAX_BODY_BYTES = 64 * 1024

HERE = Path(__file__).parent

#: Load nothing from elsewhere and run nothing inline; be shown in no frame, and known to no other page.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guarded(Service):
    """A service with pages, and the sign-in before them. `g.how` says who asked: `browser` or `api`."""

    def __init__(self, name: str, settings: ConsoleSettings, audit: Audit) -> None:
        self._token = settings.console_token or SecretStr("")
        super().__init__(
            name, token_of=lambda _path: Token("CONSOLE_TOKEN", self._token), max_body_bytes=MAX_BODY_BYTES
        )
        self.template_folder, self.static_folder = str(HERE / "templates"), str(HERE / "static")
        self._audit = audit
        self._wrong: deque[float] = deque(maxlen=MOST_WRONG)
        # Who knows the token may make cookies anyway; a new token ends every session.
        self.secret_key = hmac.digest(
            self._token.get_secret_value().encode(), b"lookingglass console cookies", sha256
        )
        self.config.update(
            SESSION_COOKIE_NAME="__Host-console" if settings.console_https else "console",
            SESSION_COOKIE_HTTPONLY=True,
            SESSION_COOKIE_SAMESITE="Strict",
            SESSION_COOKIE_SECURE=settings.console_https,
            PERMANENT_SESSION_LIFETIME=SIGNED_IN,
        )
        self.add_url_rule("/sign-in", "sign_in", self._sign_in, methods=["GET", "POST"])
        self.add_url_rule("/sign-out", "sign_out", _sign_out, methods=["POST"])
        self.after_request(_protect)
        self.context_processor(lambda: {"csrf": session.get("csrf", "")})

    def admits(self, path: str, authorization: str | None) -> bool:
        """Whether a body is worth keeping: a form comes without a header, and its cookie is looked at later."""
        return authorization is None or super().admits(path, authorization)

    def _authorize(self) -> Any:
        if is_open(self, request.endpoint) or request.endpoint == "static":
            return None
        if request.headers.get("Authorization") is not None:
            g.how = "api"
            return super()._authorize()
        if session.get("until", 0) < time.time():
            return redirect(url_for("sign_in", next=request.full_path if request.method == "GET" else None))
        g.how = "browser"
        if request.method == "POST" and not _same(request.form.get("csrf", ""), session["csrf"]):
            abort(400, "This form is not from this session: go back, load the page again, and repeat it.")
        return None

    @described("The form to sign in with, and signing in.", answers=(200, 303, 401, 429), open=True, media_type=HTML)
    def _sign_in(self) -> Answer | str | tuple[str, int]:
        problem, status = None, 200
        if request.method == "POST":
            if sum(at > time.monotonic() - 60 for at in self._wrong) >= MOST_WRONG:
                problem, status = "Too many wrong tokens; wait a minute.", 429
            elif _same(request.form.get("token", "").strip(), self._token.get_secret_value()):
                self._audit.write(address(), "browser", "signed in")
                session.clear()
                session.permanent = True
                session.update(until=time.time() + SIGNED_IN.total_seconds(), csrf=secrets.token_urlsafe(32))
                return redirect(local(request.args.get("next")), 303)
            else:
                self._wrong.append(time.monotonic())
                problem, status = "This is not the operator's token.", 401
        return render_template("sign_in.html", problem=problem), status


def address() -> str:
    """Where a request came from, as far as this process sees."""
    return request.remote_addr or "unknown"


def local(path: str | None) -> str:
    """A path on this console to go on to; the first page where it is anything else."""
    safe = path and path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path.rstrip("?") if path and safe else "/"


@described("Sign out.", answers=(303,))
def _sign_out() -> Answer:
    session.clear()
    return redirect(url_for("sign_in"), 303)


def _protect(response: Response) -> Response:
    response.headers.update(HEADERS)
    response.headers["Cache-Control"] = "no-store" if request.endpoint != "static" else "no-cache"
    return response


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())
