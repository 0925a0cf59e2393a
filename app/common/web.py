"""What every HTTP service has in common: who gets in, limits, errors, liveness, description."""

import json
import logging
from collections.abc import Callable, Collection, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask, Response, current_app, jsonify, request
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from werkzeug.exceptions import HTTPException

from app.common import openapi
from app.common.auth import bearer_matches
from app.common.errors import LookingGlassError, PermanentError
from app.common.openapi import JSON, described

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = logging.getLogger(__name__)

#: Codes of what Flask answers by itself, by status; `bad_request` for what is not named.
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_many_bytes"}

#: Seconds after which to come back, where an answer is 503.
RETRY_AFTER = 1

Answer = Response | tuple[Response, int]

#: Makes an answer of what follows the path it is for, of the query string and of the body; None leaves it to Flask.
Short = Callable[[str, str, bytes], dict[str, Any] | None]


class Shortcut(NamedTuple):
    """What answers some requests without Flask."""

    method: str
    path: str
    answer_of: Short
    #: Bytes of a body, at most, and content types that are left to Flask.
    most: int
    but: Collection[str]


class Token(NamedTuple):
    """What a path asks for: the variable that sets it, and its value; None where nothing is asked for."""

    variable: str
    value: SecretStr | None


class Alive(BaseModel):
    """The answer of `GET /health/live`."""

    model_config = ConfigDict(extra="forbid")

    status: str


class Service(Flask):
    """A Flask application with what every service has in common; endpoints are added to it.

    `name` is what people call it, `token_of` tells which token a path asks for, and a body may have `max_body_bytes`
    where an endpoint does not say otherwise.
    """

    def __init__(self, name: str, *, token_of: Callable[[str], Token], max_body_bytes: int) -> None:
        super().__init__(name)
        self._token_of = token_of
        self._shortcuts: dict[str, Shortcut] = {}
        self.json.sort_keys = False  # type: ignore[attr-defined]
        self.config["MAX_CONTENT_LENGTH"] = max_body_bytes
        self.before_request(self._authorize)
        self.add_url_rule("/health/live", view_func=_live)
        self.add_url_rule("/openapi.json", view_func=_description)
        self.register_error_handler(LookingGlassError, _ours)
        self.register_error_handler(ValidationError, _invalid)
        self.register_error_handler(HTTPException, _http)
        self.register_error_handler(Exception, self._unexpected)

    def admits(self, path: str, authorization: str | None) -> bool:
        """Whether an `Authorization` header carries the token that the path asks for."""
        return bearer_matches(authorization, self._token_of(path).value)

    def shortly(self, method: str, path: str, *, most: int, but: Collection[str] = ()) -> Callable[[Short], Short]:
        """Have requests for a path, or for all below one that ends in a slash, answered without Flask.

        Flask's way takes longer than such a function. Refusals and errors are Flask's answers, and so is what is
        larger than `most` or of a content type in `but`: there has to be a view, too.
        """

        def put(answer_of: Short) -> Short:
            self._shortcuts[path] = Shortcut(method, path, answer_of, most, but)
            return answer_of

        return put

    def wsgi_app(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request."""
        path, size = environ["PATH_INFO"], environ.get("CONTENT_LENGTH") or "0"
        short = self._shortcuts.get(path) or self._shortcuts.get(path[: path.find("/", 1) + 1])
        if (
            short is None
            or short.method != environ["REQUEST_METHOD"]
            or not size.isdecimal()
            or int(size) > short.most
            or environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() in short.but
            or not self.admits(path, environ.get("HTTP_AUTHORIZATION"))
        ):
            return super().wsgi_app(environ, start_response)
        body, query = environ["wsgi.input"].read(int(size)), environ.get("QUERY_STRING", "")
        try:
            answer = short.answer_of(_decoded(path.removeprefix(short.path)), _decoded(query), body)
            text = json.dumps(answer).encode()
        except Exception as raised:
            with self.request_context(environ):
                return self.make_response(self.handle_user_exception(raised))(environ, start_response)
        if answer is None:
            environ["wsgi.input"] = BytesIO(body)
            return super().wsgi_app(environ, start_response)
        start_response("200 OK", [("Content-Type", JSON), ("Content-Length", str(len(text)))])
        return [text]

    def _authorize(self) -> Answer | None:
        header = request.headers.get("Authorization")
        if openapi.is_open(self, request.endpoint) or self.admits(request.path, header):
            return None
        variable = self._token_of(request.path).variable
        return error(401, "unauthorized", f"Send Authorization: Bearer with the value of {variable}.")

    def _unexpected(self, error_: Exception) -> Answer:
        log.exception("Unexpected error")
        return error(
            500, "internal", f"Unexpected {type(error_).__name__}; the log of the {self.name} has the details."
        )


def _decoded(text: str) -> str:
    """What WSGI gives as if it were Latin-1."""
    return text.encode("latin-1").decode(errors="replace")


#: Schema of an answer that is an object of no fixed members.
OBJECT = {"type": "object"}


def error_body(code: str, message: str, **more: Any) -> dict[str, Any]:
    """The body of every answer that is an error: a word for programs, a sentence for people."""
    return {"status": "error", "code": code, "error": message, **more}


def error(status: int, code: str, message: str, **more: Any) -> Answer:
    """An answer that is an error."""
    answer = jsonify(error_body(code, message, **more))
    if status == 503:
        answer.headers["Retry-After"] = str(RETRY_AFTER)
    return answer, status


def bad_request(message: str) -> PermanentError:
    """The error of a request that says something wrong."""
    return PermanentError("bad_request", message)


def whole_body(limit: int) -> bytes:
    """The request's body, of at most `limit` bytes."""
    request.max_content_length = limit
    return request.get_data(cache=False)


def first_problem(invalid: ValidationError, otherwise: str = "the body") -> str:
    """The first thing wrong with a document, as `where: what`."""
    problem = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or otherwise
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"


@described("Whether it lives.", open=True, answer=Alive)
def _live() -> Response:
    return jsonify(status="alive")


@described("This description.", answer=OBJECT)
def _description() -> Response:
    return jsonify(openapi.document(current_app, f"LookingGlass {current_app.name}"))


def _ours(raised: LookingGlassError) -> Answer:
    return error(raised.status, raised.code, str(raised))


def _invalid(raised: ValidationError) -> Answer:
    return error(400, "bad_request", f"{first_problem(raised)}.")


def _http(raised: HTTPException) -> Answer:
    status = raised.code or 500
    return error(status, HTTP_CODES.get(status, "bad_request"), raised.description or raised.name)
