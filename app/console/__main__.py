"""`python -m app.console`: the operators' console."""

from app.common import logs
from app.common.server import serve
from app.common.settings import load
from app.console.pages import create_app
from app.console.parts import Parts
from app.console.session import MAX_BODY_BYTES
from app.console.settings import ConsoleSettings

#: Pages made at once; each waits for the parts behind it, not for a core.
THREADS = 16

#: Seconds for a form of a few bytes to come, and for pages in hand to be finished at the end.
BODY_SECONDS = 15
GRACE = 10


def main() -> None:
    """Serve until told to stop."""
    logs.set_up("console")
    settings = load(ConsoleSettings)
    parts = Parts(settings)
    serve(
        create_app(settings, parts),
        settings.console_host,
        settings.console_port,
        threads=THREADS,
        max_body_bytes=MAX_BODY_BYTES,
        bodies_bytes=THREADS * MAX_BODY_BYTES,
        body_seconds=BODY_SECONDS,
        grace=GRACE,
    )
    parts.close()


if __name__ == "__main__":
    main()
