"""An OpenAPI description of a Flask application, written from what stands beside each endpoint."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from app.common.version import VERSION

JSON = "application/json"
#: Schema of a body of bytes.
BYTES: Mapping[str, Any] = {"type": "string", "format": "binary"}

#: What every error is answered with; some say more.
ERROR = {
    "type": "object",
    "required": ["status", "code", "error"],
    "properties": {"status": {"const": "error"}, "code": {"type": "string"}, "error": {"type": "string"}},
}

Schema = type[BaseModel] | Mapping[str, Any]
View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operation:
    """What an endpoint does, takes and answers."""

    summary: str
    #: HTTP statuses answered, beside 401.
    answers: tuple[int, ...] = (200,)
    #: Bodies taken, by media type.
    body: Mapping[str, Schema] = field(default_factory=dict)
    #: Schemas of query parameters, by name.
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: What is answered with 200, where that is JSON.
    answer: Schema = field(default_factory=dict)
    #: Media type of an answer of 200.
    media_type: str = JSON
    #: Whether it is answered without a token.
    open: bool = False


def described(summary: str, **more: Any) -> Callable[[View], View]:
    """Put a description beside an endpoint; `more` as in `Operation`."""

    def put(view: View) -> View:
        view.operation = Operation(summary, **more)  # type: ignore[attr-defined]
        return view

    return put


def operations(app: Flask) -> dict[str, Operation]:
    """The description of each endpoint, by its name in Flask."""
    found = {name: getattr(view, "operation", None) for name, view in app.view_functions.items()}
    return {name: operation for name, operation in found.items() if operation}


def is_open(app: Flask, endpoint: str | None) -> bool:
    """Whether an endpoint is answered without a token."""
    operation = getattr(app.view_functions.get(endpoint or ""), "operation", None)
    return isinstance(operation, Operation) and operation.open


def document(app: Flask, title: str) -> dict[str, Any]:
    """The description of the whole application, as OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"Error": ERROR}
    described_by = operations(app)
    for rule in app.url_map.iter_rules():
        if operation := described_by.get(rule.endpoint):
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                paths.setdefault(path, {})[method.lower()] = _operation(operation, sorted(rule.arguments), schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": VERSION},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(operation: Operation, in_path: list[str], schemas: dict[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in in_path
    ]
    parameters += [{"name": name, "in": "query", "schema": dict(schema)} for name, schema in operation.query.items()]
    described: dict[str, Any] = {"summary": operation.summary, "parameters": parameters, "responses": {}}
    for status in (*operation.answers, *(() if operation.open else (401,))):
        described["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": _answer(operation, schemas) if status == 200 else _ERROR,
        }
    if operation.body:
        content = {media_type: {"schema": _schema(body, schemas)} for media_type, body in operation.body.items()}
        described["requestBody"] = {"required": True, "content": content}
    if not operation.open:
        described["security"] = [{"token": []}]
    return described


_ERROR = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}


def _answer(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    schema = _schema(operation.answer, schemas, "serialization") if operation.answer else {"type": "string"}
    return {operation.media_type: {"schema": schema}}


def _schema(body: Schema, schemas: dict[str, Any], mode: JsonSchemaMode = "validation") -> dict[str, Any]:
    if isinstance(body, Mapping):
        return dict(body)
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}", mode=mode)
    schemas.update(schema.pop("$defs", {}))
    schemas[body.__name__] = schema
    return {"$ref": f"#/components/schemas/{body.__name__}"}
