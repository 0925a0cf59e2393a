"""Where the pipeline is: what `outputs.json` or the Pulumi stack says."""

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from app.common.errors import LookingGlassError

ROOT = Path(__file__).parents[2]

#: What the local stack writes, and into which directory, here or in the repository.
FILE = "outputs.json"
DIRECTORY = ".lookingglass"

#: How a stack's outputs are asked for; `make up` calls the same.
PULUMI = ROOT / "scripts" / "pulumi.sh"


class WhereError(LookingGlassError):
    """It is not known where the pipeline is; the message says what to give."""


class Where(NamedTuple):
    """The console's URL and token, and whose outputs said so."""

    url: str
    token: str
    #: Directory of a local stack, with its logs; none of any other.
    directory: Path | None = None
    #: Name of a Pulumi stack; none of any other.
    stack: str | None = None


def find(outputs: Path | None, stack: str | None) -> Where:
    """Where the console is: of a stack or a file of outputs, else of the environment, else of the local stack.

    Raises:
        WhereError: nothing says so.
    """
    if stack:
        return _of(_stack_outputs(stack), f"the stack {stack}", stack=stack)
    if outputs is None and (url := os.environ.get("CONSOLE_URL")):
        return Where(url.rstrip("/"), os.environ.get("CONSOLE_TOKEN", ""))
    path = outputs or _local()
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise WhereError(
            f"There is no {path}: does `make serve` run? Else give --outputs FILE or --stack NAME, "
            "or set CONSOLE_URL and CONSOLE_TOKEN."
        ) from error
    except ValueError as error:
        raise WhereError(f"{path} is no JSON: {error}.") from error
    return _of(found, str(path), directory=path.parent)


def _of(found: dict[str, str], whose: str, *, directory: Path | None = None, stack: str | None = None) -> Where:
    url, token = found.get("console_url"), found.get("console_token")
    if not (url and token):
        raise WhereError(f"{whose} names no console_url and console_token: is its console running?")
    return Where(url.rstrip("/"), token, directory, stack)


def _local() -> Path:
    here = Path(os.environ.get("LOOKINGGLASS_DIR", DIRECTORY)) / FILE
    return here if here.exists() or "LOOKINGGLASS_DIR" in os.environ else ROOT / DIRECTORY / FILE


def _stack_outputs(stack: str) -> dict[str, str]:
    command = [str(PULUMI), stack, "stack", "output", "--json", "--show-secrets"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        raise WhereError(f"The outputs of {stack} are not to be had: {error.stderr.strip()}") from error
    return dict(found)
