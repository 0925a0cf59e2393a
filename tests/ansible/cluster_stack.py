"""The stack on a Swarm of several hosts: what is uploaded to it, and whether its index agrees with its bucket."""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count
from typing import Any

import urllib3
from minio import Minio
from pulumi import automation as auto

from infra.contract import PORTS
from tests.ansible.machine import Machine
from tests.fixtures import eventually
from tests.media import jpeg, numbered

NAME = "hosts"

#: Seconds for the index to agree with the bucket; after a host was lost RQ's finding of a dead worker takes most.
AGREES_SECONDS = 180

#: Seconds between uploads, and between questions whether a webhook answers.
UPLOAD_SECONDS = 0.5
ASK_SECONDS = 0.1

#: Asks a face service from inside, for a Swarm publishes none: the ETag that the index has of each key.
LOOKUP = """
import json, sys, urllib.request as request
token = open("/run/secrets/gpu_worker_token").read().strip()
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
asked = request.Request("http://127.0.0.1:5001/items/lookup", sys.argv[1].encode(), headers)
print(json.dumps({key: item["etag"] for key, item in json.load(request.urlopen(asked))["items"].items()}))
"""

#: Cuts a host's power, as far as Docker goes: engine, containers and all, at once, and not to be started again.
CUT = """
systemctl mask --runtime --quiet docker.service docker.socket containerd.service
shims=$(pgrep -d, containerd-shim) || true
pkill -KILL 'dockerd|^containerd$' || true
[ -z "$shims" ] || { pkill -KILL --parent "$shims" || true; pkill -KILL containerd-shim || true; }
"""
RESTORE = """
systemctl unmask --runtime --quiet docker.service docker.socket containerd.service
systemctl stop docker.socket docker.service
systemctl reset-failed
systemctl start docker.socket
systemctl start docker.service
"""


@dataclass
class Load:
    """What was uploaded while something happened, and how that was from outside."""

    uploaded: dict[str, str] = field(default_factory=dict)
    #: The longest time, in seconds, between two answers of any webhook.
    silence: float = 0


@dataclass
class ClusterStack:
    """A stack, and the hosts it is on."""

    stack: auto.Stack
    machines: dict[str, Machine]
    manager: str = "one"
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, secrets too."""
        return {name: output.value for name, output in self.stack.outputs().items()}

    def docker(self, command: str, on: str | None = None) -> str:
        """What a command of Docker's prints on a host, the manager where none is named."""
        return self.machines[on or self.manager].run(f"docker {command}").strip()

    def minio(self, user: str, secret: str) -> Minio:
        """MinIO, as the user of two outputs."""
        found = self.outputs
        endpoint = found["minio_url"].removeprefix("http://")
        http = urllib3.PoolManager(timeout=10, retries=False)
        return Minio(endpoint, found[user], found[secret], secure=False, region="us-east-1", http_client=http)

    def tasks(self, service: str) -> dict[str, list[str]]:
        """The containers of a service that run, by the hosts whose engines answer."""
        label = f"label=com.docker.swarm.service.name=lookingglass-{NAME}-{service}"
        found: dict[str, list[str]] = {}
        for name in self.machines:
            with suppress(RuntimeError):
                if containers := self.docker(f"ps --quiet --filter {label}", on=name).split():
                    found[name] = containers
        return found

    def upload(self, crawler: Minio, key: str | None = None, data: bytes | None = None) -> tuple[str, str]:
        """Upload a picture, another one each time unless one is given.

        Returns:
            Its key and ETag.
        """
        number = next(self.numbers)
        key, data = key or f"{number}.jpg", data or jpeg(numbered((160, 120), number))
        return key, str(crawler.put_object("images", key, BytesIO(data), len(data)).etag)

    @contextmanager
    def under_load(self) -> Iterator[Load]:
        """A crawler that uploads, and somebody who asks every host's webhook, while the context lasts."""
        load, stop = Load(), threading.Event()
        crawler = self.minio("crawler_access_key", "crawler_secret_key")
        threads = [
            threading.Thread(target=self._upload, args=(crawler, load, stop)),
            threading.Thread(target=self._ask, args=(load, stop)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _upload(self, crawler: Minio, load: Load, stop: threading.Event) -> None:
        while not stop.wait(UPLOAD_SECONDS):
            key, etag = self.upload(crawler)
            load.uploaded[key] = etag

    def _ask(self, load: Load, stop: threading.Event) -> None:
        urls = [f"http://{machine.address}:{PORTS['webhook']}/health" for machine in self.machines.values()]
        answered = time.monotonic()
        with urllib3.PoolManager(timeout=0.5, retries=False) as http:
            while not stop.wait(ASK_SECONDS):
                answers = any(_answers(http, url) for url in urls)
                load.silence = max(load.silence, time.monotonic() - answered)
                answered = time.monotonic() if answers else answered

    @property
    def bucket(self) -> dict[str, str]:
        """The ETag of each object."""
        minio = self.minio("minio_user", "minio_password")
        return {str(found.object_name): str(found.etag) for found in minio.list_objects("images", recursive=True)}

    def indexed(self, keys: Iterable[str]) -> dict[str, str]:
        """The ETag that the index has of each object."""
        [(host, [container])] = self.tasks("gpu-worker").items()
        asked = json.dumps({"bucket": "images", "keys": list(keys)})
        found: dict[str, str] = json.loads(self.docker(f"exec {container} python -c '{LOOKUP}' '{asked}'", on=host))
        return found

    def agrees(self, load: Load | None = None) -> None:
        """Wait until every object of the bucket has a record of its ETag; all that was uploaded is in the bucket."""
        bucket = self.bucket
        if load:
            assert load.uploaded
            assert load.uploaded.items() <= bucket.items()

        def probe() -> bool:
            with suppress(RuntimeError, ValueError):  # the face service may be on its way
                return self.indexed(bucket) == bucket
            return False

        eventually(probe, "the index agrees with the bucket", AGREES_SECONDS)


def _answers(http: urllib3.PoolManager, url: str) -> bool:
    try:
        return http.request("GET", url).status == 200
    except urllib3.exceptions.HTTPError:
        return False
