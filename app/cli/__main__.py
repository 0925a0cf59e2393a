"""`lookingglass`: the pipeline, from a terminal. Talks to the console, so what it does is in the audit log.

Exit status: 0 done, and well; 1 not well, not gone, or refused; 2 a wrong command line; 3 the console is away.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TextIO

import shtab
from rich.console import Console as Terminal

from app.cli import commands
from app.cli.client import Console, UnreachableError
from app.cli.where import WhereError, find
from app.common.errors import LookingGlassError
from app.common.text import visible

REFUSED, AWAY = 1, 3

#: Columns of what is no terminal.
WIDE = 10_000


def main() -> int:
    """Run what was asked for; return the exit status."""
    arguments = parser().parse_args()
    out, say = _terminal(sys.stdout), _terminal(sys.stderr)
    try:
        where = find(arguments.outputs, arguments.stack)
        run = commands.Run(arguments, where, Console(where), out, say)
        answer, status = arguments.command(run)
    except (WhereError, UnreachableError) as error:
        say.print(visible(str(error)), style="red")
        return AWAY
    except LookingGlassError as error:
        say.print(visible(str(error)), style="red")
        return REFUSED
    except KeyboardInterrupt:
        return 130
    if arguments.json and answer is not None:
        print(json.dumps(answer, indent=2))
    return int(status)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="lookingglass",
        description="See and run the pipeline. Where it is, .lookingglass/outputs.json says, or a Pulumi stack.",
        epilog="Exit status: 0 done and well; 1 not well, not gone, or refused; 2 wrong usage; 3 console away.",
    )
    made.add_argument("--outputs", type=Path, metavar="FILE", help="outputs of a local stack").complete = shtab.FILE  # type: ignore[attr-defined]
    made.add_argument("--stack", metavar="NAME", help="a stack of `make up`")
    made.add_argument("--json", action="store_true", help="print what the console answers, for programs")
    shtab.add_argument_to(made, "--print-completion", help="print a completion script for a shell")
    commands.add_to(made.add_subparsers(title="commands", required=True, metavar="COMMAND"))
    return made


def _terminal(stream: TextIO) -> Terminal:
    width = None if stream.isatty() else WIDE  # a program that reads a table wants a row a line
    return Terminal(file=stream, highlight=False, markup=False, emoji=False, width=width)


if __name__ == "__main__":
    sys.exit(main())
