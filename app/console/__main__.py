"""`python -m app.console`: the operators' console."""

from app.common import logs
from app.common.server import Server
from app.common.settings import load
from app.console.pages import create_app
from app.console.parts import Parts
from app.console.settings import ConsoleSettings

#: Pages made at once; each waits for the parts behind it, not for a core.
THREADS = 16

#: Seconds for a form of a few bytes to come.
BODY_SECONDS = 15


def main() -> None:
    """Serve until told to stop."""
    logs.set_up("console")
    settings = load(ConsoleSettings)
    Server(
        lambda: create_app(settings, Parts(settings)),
        bind=f"{settings.console_host}:{settings.console_port}",
        body_seconds=BODY_SECONDS,
        workers=1,
        threads=THREADS,
    ).run()


if __name__ == "__main__":
    main()
