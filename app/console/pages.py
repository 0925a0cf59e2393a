"""The console's pages. A program that sends the operator's token gets what they show as JSON."""

import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from flask import Response, flash, g, jsonify, redirect, render_template, request, stream_with_context
from redis.exceptions import RedisError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as Answer

from app.common import web, words
from app.common.errors import LookingGlassError
from app.common.openapi import described
from app.common.redis import problem
from app.common.text import visible
from app.common.version import VERSION
from app.console import actions, comparison, objects, session, trouble
from app.console.overview import now, overview
from app.console.parts import Parts
from app.console.preview import preview
from app.console.settings import ConsoleSettings
from app.console.upstream import RefusedError

log = logging.getLogger(__name__)

#: Entries of the audit log on a page.
AUDIT_ROWS = 100

TEXT = {"type": "string"}
OBJECT = {"bucket": TEXT, "object": TEXT}
OBJECTS = {**dict.fromkeys((*objects.Wanted._fields, "after"), TEXT)}


def create_app(settings: ConsoleSettings, parts: Parts) -> session.Guarded:
    """The WSGI application over the parts of a pipeline."""
    app = session.Guarded("console", settings, parts.audit)
    app.jinja_env.filters.update(
        visible=visible, ago=words.ago, clock=words.clock, span=words.span, size=words.size, url=_query
    )
    app.jinja_env.globals.update(count=words.count, actions=actions.ACTIONS, now=now, version=VERSION)

    @app.get("/health")
    @described("Whether it serves pages; what is behind it may be away.", open=True)
    def health() -> Response:
        return jsonify(status="healthy", service="console", version=VERSION)

    @app.get("/")
    @described("The pipeline as it is, part by part.")
    def first() -> str | Response:
        return _page("overview.html", **overview(parts))

    @app.get("/objects")
    @described("Objects, a page.", answers=(200, 503), query=OBJECTS)
    def list_objects() -> str | Response:
        wanted = objects.Wanted(**{name: request.args.get(name, "") for name in objects.Wanted._fields})
        found = objects.page(parts, wanted, request.args.get("after") or None)
        return _page("objects.html", wanted=wanted._asdict(), buckets=sorted(settings.buckets()), **found)

    @app.get("/object")
    @described("All that is known of an object.", answers=(200, 400), query=OBJECT)
    def one_object() -> str | Response:
        return _page("object.html", **objects.one(parts, *_object()))

    @app.get("/picture")
    @described(
        "An object's picture, reduced and upright.",
        answers=(200, 400, 404, 422, 503),
        query=OBJECT,
        media_type="image/jpeg",
    )
    def picture() -> Response:
        bucket, key = _object()
        record = parts.faces.item(bucket, key)["item"]
        if record is None:
            raise RefusedError(f"The index knows nothing of {bucket}/{key}.", 404)
        _audit("looked at a picture", f"{bucket}/{key}")
        try:
            data = parts.bucket.read(bucket, key, record["etag"], settings.max_image_bytes)
        except KeyError as error:
            raise RefusedError("The bucket holds another version now, none, or one too large.", 404) from error
        return Response(preview(data), mimetype="image/jpeg")

    @app.get("/trouble")
    @described("Failed jobs, rejections and dead events, by reason.")
    def show_trouble() -> str | Response:
        return _page("trouble.html", **trouble.trouble(parts))

    @app.get("/trouble.csv")
    @described("The same, case by case.", media_type="text/csv")
    def trouble_csv() -> Response:
        lines: Iterator[str] = stream_with_context(trouble.as_csv(parts))
        name = "attachment; filename=trouble.csv"
        return Response(lines, mimetype="text/csv", headers={"Content-Disposition": name})

    @app.get("/actions")
    @described("The models, the last comparison, and whether the workers are paused.")
    def show_actions() -> str | Response:
        return _page("actions.html", **comparison.state(parts))

    @app.get("/audit")
    @described("Who did what, newest first.", answers=(200, 503), query={"start": TEXT})
    def show_audit() -> str | Response:
        start = max(0, request.args.get("start", 0, type=int))
        total, entries = parts.audit.page(start, AUDIT_ROWS)
        following = start + AUDIT_ROWS if start + AUDIT_ROWS < total else None
        return _page("audit.html", total=total, entries=entries, start=start, following=following)

    @app.get("/do/<action>")
    @described("What an action asks before it is done.", answers=(200, 404))
    def ask(action: str) -> str | Response:
        wanted = actions.find(action, request.args)
        given = {name: request.args[name] for name in wanted.fields}
        question = wanted.question.format(**{name: visible(value) for name, value in given.items()})
        return _page(
            "ask.html",
            action=action,
            question=question,
            consequence=wanted.consequence,
            label=wanted.label,
            drops=wanted.drops,
            given_json=json.dumps(given),
            back=session.local(request.args.get("back")),
        )

    @app.post("/do/<action>")
    @described("Do it.", answers=(200, 400, 404, 409, 503), body={"application/json": {"type": "object"}})
    def act(action: str) -> Answer:
        given = _given()
        wanted = actions.find(action, given)
        about = "/".join(given[name] for name in wanted.fields)
        _audit(f"asked to {action}", about)  # before it is done: what cannot be written down is not done
        try:
            done = wanted.run(parts, given)
        except LookingGlassError as error:
            _audit(f"failed to {action}", about, str(error))
            raise
        _audit(action, about, done.sentence)
        if g.how == "api":
            return jsonify(status="success", done=done.sentence, more=done.more)
        flash(done.sentence)
        return redirect(session.local(given.get("back")), 303)

    def _audit(what: str, about: str, outcome: str = "") -> None:
        parts.audit.write(session.address(), g.how, what, about, outcome)

    app.register_error_handler(LookingGlassError, lambda error: _error(error.status, error.code, str(error)))
    app.register_error_handler(RedisError, lambda error: _away(error, settings))
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)
    return app


def _page(template: str, **shown: Any) -> str | Response:
    return jsonify(status="success", **shown) if g.how == "api" else render_template(template, **shown)


def _object() -> tuple[str, str]:
    bucket, key = request.args.get("bucket", ""), request.args.get("object", "")
    if not (bucket and key):
        raise RefusedError("bucket and object say which one.", 400)
    return bucket, key


def _given() -> dict[str, str]:
    """What an action is to act on. A browser would send a line break in a name as two, so it sends JSON too."""
    body = _json(request.form.get("given")) if g.how == "browser" else request.get_json(silent=True)
    given = {str(name): str(value) for name, value in body.items()} if isinstance(body, dict) else {}
    return given | ({"back": request.form.get("back", "")} if g.how == "browser" else {})


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return None


def _query(path: str, **arguments: str | int | None) -> str:
    """A path with a query, in which a value may hold anything at all."""
    given = "&".join(
        f"{name}={quote(str(value), safe='')}" for name, value in arguments.items() if value not in (None, "")
    )
    return f"{path}?{given}" if given else path


def _away(error: RedisError, settings: ConsoleSettings) -> web.Answer:
    return _error(503, "unavailable", problem(error, settings.redis_url))


def _http(error: HTTPException) -> web.Answer:
    status = error.code or 500
    return _error(status, web.HTTP_CODES.get(status, "bad_request"), error.description or error.name)


def _unexpected(error: Exception) -> web.Answer:
    log.exception("Unexpected error")
    return _error(500, "internal", f"Unexpected {type(error).__name__}; the console's log has the details.")


def _error(status: int, code: str, message: str) -> web.Answer:
    if getattr(g, "how", None) == "browser":
        return Response(render_template("error.html", message=message), mimetype="text/html"), status
    return web.error(status, code, message)
