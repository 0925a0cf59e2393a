"""The plainest worker: RQ's SimpleWorker and a job that reads the object and posts it. What ours is compared with."""

import os
from functools import cache

import urllib3
from minio import Minio
from redis import Redis
from rq import Queue, SimpleWorker

QUEUE = "plain"


@cache
def clients() -> tuple[Minio, urllib3.PoolManager]:
    """The clients of this process."""
    user, password = os.environ["MINIO_USER"], os.environ["MINIO_PASSWORD"]
    store = Minio(os.environ["MINIO_ENDPOINT"], user, password, secure=False, region="us-east-1")
    return store, urllib3.PoolManager()


def job(bucket: str, key: str) -> None:
    """Read an object, and send it to the face service."""
    store, http = clients()
    response = store.get_object(bucket, key)
    data = response.read()
    response.close()
    response.release_conn()
    answer = http.request("PUT", f"{os.environ['GPU_WORKER_URL']}/items/{bucket}/{key}", body=data)
    assert answer.status == 200, answer.data


def main() -> None:
    """Work until told to stop."""
    connection = Redis.from_url(os.environ["REDIS_URL"])
    SimpleWorker([Queue(QUEUE, connection=connection)], connection=connection).work(logging_level="WARNING")


if __name__ == "__main__":
    main()
