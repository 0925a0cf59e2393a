"""`python -m infra.local`: run the whole pipeline on this machine."""

import argparse
import signal
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.common.errors import LookingGlassError
from app.common.settings import load
from infra.local import tools
from infra.local.photos import photos
from infra.local.settings import LocalSettings
from infra.local.stack import Stack


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the stack in the foreground until Ctrl-C")
    commands.add_parser("fetch", help="fetch or build the programs and photographs that the stack and its tests need")
    demo = commands.add_parser("demo", help="run the stack, put photos and a video through it, show what it found")
    demo.add_argument("--keep", action="store_true", help="leave the stack running afterwards, until Ctrl-C")
    demo.add_argument("--picture", type=Path, default=Path("demo.jpg"), help="where to write the picture (demo.jpg)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    settings = load(LocalSettings)
    console = Console(stderr=True)
    try:
        if arguments.command == "fetch":
            for made in (tools.redis_server(), tools.redis_cli(), tools.minio(), tools.mc(), *photos().values()):
                console.print(str(made), highlight=False, soft_wrap=True)
        elif arguments.command == "serve":
            with Stack(settings) as stack:
                _show(stack, console)
                _watch(stack)
        else:
            from infra.local.demo import run

            return run(settings, console, picture=arguments.picture, keep=arguments.keep)
    except LookingGlassError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped; the data stays in " + str(settings.lookingglass_dir))
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    # A second signal while things are being stopped must not leave half of them running.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _show(stack: Stack, console: Console) -> None:
    table = Table(title="LookingGlass is running; Ctrl-C stops it", title_justify="left", box=None, show_header=False)
    for name, value in stack.outputs.items():
        if value and name not in ("minio_password", "webhook_token", "console_token"):
            table.add_row(name, value)
    table.add_row("outputs", str(stack.directory / "outputs.json"))
    table.add_row("logs", str(stack.directory / "logs"))
    console.print(table)


def _watch(stack: Stack) -> None:
    while True:
        stack.check()
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
