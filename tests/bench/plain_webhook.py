"""The plainest build of the webhook: Flask, gunicorn and `Queue.enqueue`. What ours is compared with."""

import os
from urllib.parse import unquote_plus

from flask import Flask, jsonify, request
from redis import Redis
from rq import Queue

app = Flask(__name__)
queue = Queue("facial_recognition", connection=Redis.from_url(os.environ["REDIS_URL"]))


@app.post("/webhook/minio")
def minio():  # type: ignore[no-untyped-def]
    """Enqueue a job for each record."""
    jobs = []
    for record in request.get_json()["Records"]:
        bucket = record["s3"]["bucket"]["name"]
        key = unquote_plus(record["s3"]["object"]["key"])
        job = queue.enqueue("worker.route_processing_job", bucket, key, record["eventName"])
        jobs.append({"job_id": job.id, "bucket": bucket, "object": key, "status": "queued"})
    return jsonify(status="success", processed_jobs=len(jobs), jobs=jobs)
