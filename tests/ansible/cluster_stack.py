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

import pytest
import urllib3
from minio import Minio
from minio.error import MinioException
from pulumi import automation as auto

from infra.contract import PORTS
from tests.ansible.machine import Machine
from tests.fixtures import eventually
from tests.media import jpeg, numbered

NAME = "hosts"

#: Seconds for the index to agree with the bucket; after a host was lost RQ's finding of a dead worker takes most.
AGREES_SECONDS = 180

#: Seconds for tasks to be on other hosts: Swarm lets the old ones stop before it starts others.
MOVES_SECONDS = 180

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

#: Cuts a host's power, as far as Docker goes: all at once no packet, no engine and no containers, nor any soon.
CUT = """
iptables --table mangle --insert POSTROUTING --out-interface eth0 --jump DROP
systemctl mask --runtime --quiet docker.service docker.socket containerd.service
shims=$(pgrep -d, containerd-shim) || true
pkill -KILL 'dockerd|^containerd$' || true
[ -z "$shims" ] || { pkill -KILL --parent "$shims" || true; pkill -KILL containerd-shim || true; }
# With the power, their interfaces are gone: a dead container would go on answering for an address that is given anew.
for interface in $(ls /sys/class/net/docker_gwbridge/brif); do ip link delete "$interface" || true; done
"""
RESTORE = """
iptables --table mangle --delete POSTROUTING --out-interface eth0 --jump DROP
systemctl unmask --runtime --quiet docker.service docker.socket containerd.service
systemctl stop docker.socket docker.service
systemctl reset-failed
systemctl start docker.socket
systemctl start docker.service
"""

#: Cuts a host off another one or joins them again, `--insert` or `--delete`, in both directions.
SPLIT = """
iptables --table mangle {0} POSTROUTING --destination {1} --jump DROP
iptables --table mangle {0} PREROUTING --source {1} --jump DROP
"""


#: What a power cut takes of Redis's log, which it brings onto the disk each second: the log's file and size by now.
LOG = "stat --format='%n %s' /var/lib/docker/volumes/lookingglass-hosts-redis/_data/appendonlydir/*.incr.aof"


@dataclass
class Load:
    """What was uploaded while something happened, and how that was from outside."""

    uploaded: dict[str, str] = field(default_factory=dict)
    #: Why uploads were not acknowledged, which were tried again.
    failed: list[str] = field(default_factory=list)
    #: The longest time, in seconds, between two that were.
    stalled: float = 0
    #: The longest times, in seconds, between two answers of any webhook, and between two that it is ready.
    silence: float = 0
    unready: float = 0

    def upload(self, crawler: Minio, key: str, number: int) -> None:
        """Upload a picture, another one for each number."""
        data = jpeg(numbered((160, 120), number))
        self.uploaded[key] = str(crawler.put_object("images", key, BytesIO(data), len(data)).etag)


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

    def nodes(self, host: str = "") -> str:
        """What a manager says of the hosts, or of one; nothing while the managers have no leader."""
        with suppress(RuntimeError):
            return self.docker(f"node ls --filter name={host}")
        return ""

    def back(self, host: str) -> None:
        """Give a host its power back, and wait until the Swarm has it again."""
        self.machines[host].run(RESTORE)
        eventually(lambda: "Ready" in self.nodes(host), f"{host} is back", MOVES_SECONDS)

    def split(self, host: str, verb: str) -> None:
        """Cut a host off the others, or join it to them again."""
        for name, machine in self.machines.items():
            if name != host:
                self.machines[host].run(SPLIT.format(verb, machine.address))

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

    @property
    def crawler(self) -> Minio:
        """MinIO, as a crawler."""
        return self.minio("crawler_access_key", "crawler_secret_key")

    @contextmanager
    def under_load(self) -> Iterator[Load]:
        """A crawler that uploads, and somebody who asks every host's webhook, while the context lasts."""
        load, stop = Load(), threading.Event()
        threads = [
            threading.Thread(target=self._upload, args=(self.crawler, load, stop)),
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
        number, acknowledged = next(self.numbers), time.monotonic()
        while not stop.wait(UPLOAD_SECONDS):
            try:
                load.upload(crawler, f"{number}.jpg", number)
            except (urllib3.exceptions.HTTPError, MinioException) as error:
                load.failed.append(str(error))
            else:
                now, number = time.monotonic(), next(self.numbers)
                load.stalled, acknowledged = max(load.stalled, now - acknowledged), now

    def _ask(self, load: Load, stop: threading.Event) -> None:
        urls = [f"http://{machine.address}:{PORTS['webhook']}/health" for machine in self.machines.values()]
        answered = ready = time.monotonic()
        with urllib3.PoolManager(timeout=0.5, retries=False) as http:
            while not stop.wait(ASK_SECONDS):
                found, now = {_status(http, url) for url in urls} - {None}, time.monotonic()
                load.silence, load.unready = max(load.silence, now - answered), max(load.unready, now - ready)
                answered, ready = now if found else answered, now if 200 in found else ready

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
        if lacking := self.lacking(AGREES_SECONDS):
            pytest.fail(f"the index does not agree with the bucket: {sorted(lacking)}")
        if load:
            assert load.uploaded
            assert load.uploaded.items() <= self.bucket.items()

    def lacking(self, patience: float) -> set[str]:
        """Objects that the index has no record of, or of another ETag, when none was added for so many seconds."""
        bucket = self.bucket
        lacking = set(bucket)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            with suppress(RuntimeError, ValueError):  # the face service may be on its way
                before, lacking = lacking, {key for key, _ in bucket.items() - self.indexed(bucket).items()}
                if not lacking:
                    break
                deadline = deadline if lacking == before else time.monotonic() + patience
            time.sleep(0.5)
        return lacking

    def at_rest(self) -> None:
        """Wait until no job waits or runs; none failed."""
        http, found = urllib3.PoolManager(timeout=5, retries=False), self.outputs
        headers = {"Authorization": f"Bearer {found['api_token']}"}

        def probe() -> bool:
            [host, *_] = self.tasks("webhook")
            url = f"http://{self.machines[host].address}:{PORTS['webhook']}/queue/stats"
            stats = http.request("GET", url, headers=headers).json()["stats"]
            assert stats["failed_jobs"] == 0
            return not any(stats[f"{state}_jobs"] for state in ("queued", "started", "deferred", "scheduled"))

        eventually(probe, "no job waits", AGREES_SECONDS)

    def compare(self) -> str:
        """Compare bucket and index, and have mended what differs; what was said."""
        [(host, [container, *_]), *_] = self.tasks("worker").items()
        return self.docker(f"exec {container} python -m app.worker reconcile --wait 2>&1", on=host)


def _status(http: urllib3.PoolManager, url: str) -> int | None:
    try:
        return int(http.request("GET", url).status)
    except urllib3.exceptions.HTTPError:
        return None
