"""What is posted shortly is answered as Flask would."""

from typing import Any

import pytest
from flask import Response, jsonify, request
from flask.testing import FlaskClient
from pydantic import SecretStr

from app.common.errors import TransientError
from app.common.openapi import described
from app.common.web import Service, Token

TOKEN = {"Authorization": "Bearer right"}


@pytest.fixture
def client() -> FlaskClient:
    app = Service("test", token_of=lambda _path: Token("TOKEN", SecretStr("right")), max_body_bytes=100)

    @app.post("/short")
    @app.post("/below/<path:rest>")
    @described("Echo.", answers=(200, 503))
    def flask_echo(rest: str = "") -> Response:
        request.get_data()
        return jsonify(by="Flask", rest=rest)

    @app.shortly("POST", "/short", most=100, but=("text/plain",))
    @app.shortly("POST", "/below/", most=50)
    def echo(rest: str, query: str, body: bytes) -> dict[str, Any] | None:
        if body == b"later":
            raise TransientError("Not now.")
        if body == b"bug":
            raise RuntimeError("a bug")
        return None if body == b"yours" else {"body": body.decode(), "query": query, "rest": rest}

    return app.test_client()


def test_an_answer_is_json_of_what_the_function_says(client: FlaskClient) -> None:
    answer = client.post("/short?a=1&b", data=b"\xc3\xa9", headers=TOKEN)
    assert (answer.status_code, answer.json) == (200, {"body": "é", "query": "a=1&b", "rest": ""})
    assert answer.content_type == "application/json"
    assert client.post("/short", headers=TOKEN).json == {"body": "", "query": "", "rest": ""}


def test_what_is_below_a_path_is_told_as_it_was_meant(client: FlaskClient) -> None:
    answer = client.post("/below/a//b%20%C3%A9%2Fc?q=%C3%A9", headers=TOKEN).json
    assert answer == {"body": "", "query": "q=%C3%A9", "rest": "a//b é/c"}
    assert client.post("/below", headers=TOKEN).status_code == 404
    assert client.post("/shorter", headers=TOKEN).status_code == 404


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/short", {"data": b"yours"}),
        ("/short", {"data": b"a", "content_type": "Text/Plain; charset=utf-8"}),
        ("/below/a", {"data": b"x" * 51}),
    ],
)
def test_the_rest_is_left_to_flask(client: FlaskClient, path: str, more: dict[str, Any]) -> None:
    answer = client.post(path, headers=TOKEN, **more)
    assert answer.json is not None
    assert answer.json["by"] == "Flask"


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"x", {}, 401, "unauthorized"),
        (b"x", {"Authorization": "Bearer wrong"}, 401, "unauthorized"),
        (b"x" * 101, TOKEN, 413, "too_many_bytes"),
        (b"later", TOKEN, 503, "unavailable"),
        (b"bug", TOKEN, 500, "internal"),
    ],
)
def test_a_refusal_and_a_failure_are_said_by_flask(
    client: FlaskClient, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = client.post("/short", data=body, headers=headers)
    assert answer.status_code == status
    assert answer.json is not None
    assert answer.json["code"] == code
    assert ("Retry-After" in answer.headers) is (status == 503)


def test_other_methods_and_the_description_know_it(client: FlaskClient) -> None:
    assert client.get("/short", headers=TOKEN).status_code == 405
    description = client.get("/openapi.json", headers=TOKEN).json
    assert description is not None
    assert description["paths"]["/short"]["post"]["summary"] == "Echo."
