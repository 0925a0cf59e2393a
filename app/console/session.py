"""Who may see what: a browser that signed in, or a program with the operator's token; nobody else sees anything."""

import hmac
import secrets
import time
from collections import deque
from datetime import timedelta
from hashlib import sha256
from typing import Any

from flask import Flask, Response, abort, g, redirect, render_template, request, session, url_for
from pydantic import SecretStr
from werkzeug.wrappers import Response as Answer

from app.common.auth import bearer_matches
from app.common.openapi import described, is_open
from app.console.audit import Audit
from app.console.settings import ConsoleSettings

#: For how long a browser stays signed in, however busy it is.
SIGNED_IN = timedelta(hours=8)

HTML = "text/html"

#: Wrong tokens in a minute, from everywhere, after which nobody is let in for the rest of it.
MOST_WRONG = 20


def guard(app: Flask, settings: ConsoleSettings, audit: Audit) -> None:
    """Ask everybody who they are, and add the pages to sign in and out."""
    token = settings.console_token or SecretStr("")
    wrong: deque[float] = deque(maxlen=MOST_WRONG)
    # Who knows the token may make cookies anyway; a new token ends every session.
    app.secret_key = hmac.digest(token.get_secret_value().encode(), b"lookingglass console cookies", sha256)
    app.config.update(
        SESSION_COOKIE_NAME="__Host-console" if settings.console_https else "console",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=settings.console_https,
        PERMANENT_SESSION_LIFETIME=SIGNED_IN,
    )

    @app.before_request
    def authorize() -> Answer | tuple[dict[str, str], int] | None:
        if is_open(app, request.endpoint) or request.endpoint == "static":
            return None
        if header := request.headers.get("Authorization"):
            if not bearer_matches(header, token):
                return {
                    "status": "error",
                    "error": "Send Authorization: Bearer with the value of CONSOLE_TOKEN.",
                }, 401
            g.how = "api"
            return None
        if session.get("until", 0) < time.time():
            return redirect(url_for("sign_in", next=request.full_path if request.method == "GET" else None))
        g.how = "browser"
        if request.method == "POST" and not _ours(request.form.get("csrf")):
            abort(400, "This form is not from this session: go back, load the page again, and repeat it.")
        return None

    @app.route("/sign-in", methods=["GET", "POST"])
    @described("The form to sign in with, and signing in.", answers=(200, 401, 429), open=True, media_type=HTML)
    def sign_in() -> Answer | str | tuple[str, int]:
        problem, status = None, 200
        if request.method == "POST":
            minute = [at for at in wrong if at > time.monotonic() - 60]
            if len(minute) >= MOST_WRONG:
                problem, status = "Too many wrong tokens; wait a minute.", 429
            elif hmac.compare_digest(
                request.form.get("token", "").strip().encode(), token.get_secret_value().encode()
            ):
                session.clear()
                session.permanent = True
                session.update(until=time.time() + SIGNED_IN.total_seconds(), csrf=secrets.token_urlsafe(32))
                audit.write(address(), "browser", "signed in")
                return redirect(local(request.args.get("next")), 303)
            else:
                wrong.append(time.monotonic())
                problem, status = "This is not the operator's token.", 401
        return render_template("sign_in.html", problem=problem), status

    @app.post("/sign-out")
    @described("Sign out.", answers=(303,))
    def sign_out() -> Answer:
        session.clear()
        return redirect(url_for("sign_in"), 303)

    @app.context_processor
    def form_token() -> dict[str, Any]:
        return {"csrf": session.get("csrf", "")}


def protect(app: Flask) -> None:
    """Tell browsers to load nothing from elsewhere, to run nothing inline, and to keep nothing."""

    @app.after_request
    def headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store" if request.endpoint != "static" else "no-cache"
        return response


def address() -> str:
    """Where a request came from, as far as this process sees."""
    return request.remote_addr or "unknown"


def local(path: str | None) -> str:
    """A path on this console to go on to; the first page where it is anything else."""
    safe = path and path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path.rstrip("?") if path and safe else "/"


def _ours(given: str | None) -> bool:
    return bool(given) and hmac.compare_digest(str(given).encode(), str(session.get("csrf", "")).encode())
