"""A Qdrant server: a real one where `qdrant` is on PATH, else a stand-in, for no package registry carries one.

The stand-in answers on the server's REST paths out of qdrant-client's local mode: `python -m tests.qdrant_server PORT
DIRECTORY ADDRESS`. It shows that the client's calls reach a server and what happens when there is none; not a
server's speed, durability or limits.
"""

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import urllib3
from flask import Flask, Response, request
from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient, models

from infra.local import tools
from infra.local.processes import ChildProcess


def process(directory: Path, port: int, host: str = "127.0.0.1") -> ChildProcess:
    """The server, not yet started."""
    directory.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(tools.ROOT)}
    command = [sys.executable, "-m", "tests.qdrant_server", str(port), str(directory), host]
    if real := shutil.which("qdrant"):
        command = [real, "--disable-telemetry"]
        environment |= {
            "QDRANT__SERVICE__HOST": host,
            "QDRANT__SERVICE__HTTP_PORT": str(port),
            "QDRANT__STORAGE__STORAGE_PATH": str(directory),
            "QDRANT_INIT_FILE_PATH": str(directory / ".qdrant-initialized"),  # else in the working directory
        }
    return ChildProcess("qdrant", command, environment, directory / "log")


def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        return urllib3.request("GET", f"{url}/collections", timeout=5, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def create_app(client: QdrantClient) -> Flask:
    """The stand-in's WSGI application."""
    app = Flask(__name__)
    lock = threading.Lock()  # local mode is not made for threads
    copies: dict[str, tuple[int | None, int | None]] = {}  # nor for nodes

    def body(model: Any) -> Any:
        return TypeAdapter(model).validate_json(request.get_data())

    def answer(result: Any) -> Response:
        shown = (
            result.model_dump_json() if isinstance(result, BaseModel) else TypeAdapter(Any).dump_json(result).decode()
        )
        return Response(f'{{"result":{shown},"status":"ok","time":0.0}}', content_type="application/json")

    @app.before_request
    def take() -> Response | None:
        request.get_data()  # whoever is stopped while he sends it, is not to stop the others
        lock.acquire()
        name = (request.view_args or {}).get("name")
        there = not name or client.collection_exists(name)
        if there or request.endpoint in ("create", "drop"):
            return None
        said = {"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}, "time": 0.0}
        return Response(json.dumps(said), 404, content_type="application/json")

    @app.teardown_request
    def release(_error: BaseException | None) -> None:
        lock.release()

    @app.get("/collections")
    def collections() -> Response:
        return answer(client.get_collections())

    @app.put("/collections/<name>")
    def create(name: str) -> Response:
        wanted = body(models.CreateCollection)
        copies[name] = (wanted.replication_factor, wanted.write_consistency_factor)
        return answer(client.create_collection(name, vectors_config=wanted.vectors or {}))

    @app.get("/collections/<name>")
    def describe(name: str) -> Response:
        found = client.get_collection(name)
        params = found.config.params
        params.replication_factor, params.write_consistency_factor = copies.get(name, (None, None))
        return answer(found)

    @app.delete("/collections/<name>")
    def drop(name: str) -> Response:
        return answer(client.delete_collection(name))

    @app.put("/collections/<name>/index")
    def index(name: str) -> Response:
        return answer({"operation_id": 0, "status": "completed"})

    @app.get("/aliases")
    def aliases() -> Response:
        return answer(client.get_aliases())

    @app.post("/collections/aliases")
    def change_aliases() -> Response:
        return answer(client.update_collection_aliases(body(models.ChangeAliasesOperation).actions))

    @app.put("/collections/<name>/points")
    def upsert(name: str) -> Response:
        wanted = body(models.PointsList)
        more = {"update_filter": wanted.update_filter, "update_mode": wanted.update_mode}
        return answer(client.upsert(name, wanted.points, **more))

    @app.post("/collections/<name>/points")
    def retrieve(name: str) -> Response:
        wanted = body(models.PointRequest)
        return answer(
            [found.model_dump() for found in client.retrieve(name, wanted.ids, wanted.with_payload or False)]
        )

    @app.post("/collections/<name>/points/scroll")
    def scroll(name: str) -> Response:
        wanted = body(models.ScrollRequest)
        points, following = client.scroll(
            name, wanted.filter, wanted.limit or 10, offset=wanted.offset, with_payload=wanted.with_payload or False
        )
        return answer({"points": [point.model_dump() for point in points], "next_page_offset": following})

    @app.post("/collections/<name>/points/count")
    def count(name: str) -> Response:
        return answer(client.count(name, body(models.CountRequest).filter))

    @app.post("/collections/<name>/facet")
    def tally(name: str) -> Response:
        wanted = body(models.FacetRequest)
        return answer(client.facet(name, wanted.key, wanted.filter, wanted.limit or 10, exact=wanted.exact or False))

    @app.post("/collections/<name>/points/delete")
    def delete(name: str) -> Response:
        selector: Any = models.FilterSelector | models.PointIdsList
        return answer(client.delete(name, body(selector)))

    return app


if __name__ == "__main__":
    create_app(QdrantClient(path=sys.argv[2], force_disable_check_same_thread=True)).run(
        sys.argv[3], int(sys.argv[1]), threaded=True
    )
