"""A stack of the program, driven through Pulumi's Automation API with a state of its own."""

import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import docker
from lookingglass.engine import LABEL
from lookingglass.environment import declare
from pulumi import automation as auto

from tests.infra.docker_plugin import PROGRAM, ROOT
from tests.infra.pulumi_cli import pulumi_cli

#: What the CLI starts for dynamic providers; the real one is a script of the same two lines.
DYNAMIC = f"""#!/bin/sh
cd {PROGRAM} && exec {sys.executable} -u -m pulumi.dynamic "$@"
"""

DOCKER = f"""#!/bin/sh
cd {ROOT} && PYTHONPATH={PROGRAM} exec {sys.executable} -u -m tests.infra.docker_plugin "$@"
"""


def open_stack(name: str, directory: Path, config: dict[str, Any]) -> auto.Stack:
    """The stack, created where there is none; its state and plugins live in the directory."""
    for folder in ("state", "home", "bin", "work"):
        (directory / folder).mkdir(exist_ok=True)
    _executable(directory / "bin" / "pulumi-resource-pulumi-python", DYNAMIC)
    if not shutil.which("pulumi-resource-docker"):
        _executable(directory / "bin" / "pulumi-resource-docker", DOCKER)
    cli = pulumi_cli()
    command = directory / "cli" / "bin" / "pulumi"
    command.parent.mkdir(parents=True, exist_ok=True)
    if not command.exists():
        command.symlink_to(cli)
    options = auto.LocalWorkspaceOptions(
        work_dir=str(directory / "work"),
        pulumi_home=str(directory / "home"),
        pulumi_command=auto.PulumiCommand(str(directory / "cli"), skip_version_check=True),
        env_vars={
            "PATH": f"{directory / 'bin'}:{command.parent}:{os.environ['PATH']}",
            "PULUMI_BACKEND_URL": f"file://{directory / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "only for tests",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_AUTOMATION_API_SKIP_VERSION_CHECK": "true",
        },
        project_settings=auto.ProjectSettings(name="lookingglass", runtime="python"),
    )
    stack = auto.create_or_select_stack(name, project_name="lookingglass", program=declare, opts=options)
    configure(stack, config)
    return stack


def configure(stack: auto.Stack, config: dict[str, Any]) -> None:
    """Set keys of the stack's configuration, JSON for what is not a string."""
    for key, value in config.items():
        text = value if isinstance(value, str) else json.dumps(value)
        stack.set_config(f"lookingglass:{key}", auto.ConfigValue(text))


def sweep(client: docker.DockerClient, name: str) -> None:
    """Remove what carries the stack's label."""
    ours: dict[str, Any] = {"label": f"{LABEL}={name}"}
    for container in client.containers.list(all=True, filters=ours):
        container.remove(force=True)
    for network in client.networks.list(filters=ours):
        network.remove()
    for volume in client.volumes.list(filters=ours):
        volume.remove()


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
