"""`python -m app.gpu`: the face service."""

from app.common import logs
from app.common.server import serve
from app.common.settings import load
from app.gpu.api import MAX_JSON_BYTES, create_app
from app.gpu.service import FaceService
from app.gpu.settings import FaceSettings
from app.gpu.sizing import most_requests

#: Threads beyond those that pictures can take, so that health and look-ups always find one.
SPARE_THREADS = 16

#: Seconds for a picture to come.
BODY_SECONDS = 60


def main() -> None:
    """Serve until told to stop. One process: the embedded index belongs to it alone."""
    logs.set_up("gpu")
    settings = load(FaceSettings)
    service = FaceService(settings)
    try:
        serve(
            create_app(service, settings),
            settings.gpu_worker_host,
            settings.gpu_worker_port,
            threads=most_requests(settings) + SPARE_THREADS,
            max_body_bytes=max(settings.max_image_bytes, MAX_JSON_BYTES),
            bodies_bytes=settings.max_waiting_bytes,
            body_seconds=BODY_SECONDS,
            # Pictures in work are finished before the process ends.
            grace=settings.analysis_timeout + 10,
        )
    finally:
        service.close()


if __name__ == "__main__":
    main()
