"""`python -m tests.infra COMMAND …`: run tests with a Docker engine and what they start from on it.

Everything that takes long is made before the tests, where its progress can be seen, and one engine serves them all.
"""

import os
import signal
import subprocess
import sys
from contextlib import closing

import docker

from infra.local import tools

sys.path.insert(0, str(tools.ROOT / "infra" / "pulumi"))  # the program's modules, as pytest finds them

from tests.infra import engine
from tests.infra.pulumi_cli import pulumi_cli


def main(command: list[str]) -> int:
    """Run the command with `DOCKER_HOST` set; where there is no engine, say so and leave it to the tests to skip."""
    try:
        with engine.engine() as url:
            _prepare(url)
            return _run(command, DOCKER_HOST=url)
    except (engine.NoEngineError, tools.ToolError) as error:
        tools.say(f"The tests of the Docker stack will be skipped: {error}")
    return _run(command)


def _prepare(url: str) -> None:
    with closing(docker.DockerClient(base_url=url, timeout=600)) as client:
        tools.say(f"Images: {engine.base_image(client)}, {engine.redis_image(client)}")
        tools.say("Building the images of a stack; the first time that takes some minutes.")
        for name in engine.BUILT:
            tools.say(f"  {engine.stack_image(client, name)}")
    tools.say(f"Pulumi: {pulumi_cli()}")


def _run(command: list[str], **environment: str) -> int:
    # Ctrl-C is for the tests, which have stacks to take down, and the engine stays until they have.
    signal.signal(signal.SIGINT, lambda *_: None)
    return subprocess.run(command, env=os.environ | environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
