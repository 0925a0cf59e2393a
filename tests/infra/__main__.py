"""`python -m tests.infra`: make what the tests of the Docker stack need, where its progress can be seen."""

import docker

from infra.local import tools
from tests.infra import engine
from tests.infra.pulumi_cli import pulumi_cli


def main() -> None:
    """Make the images and the CLI; where there is no engine, say so and leave it to the tests to skip."""
    try:
        with engine.engine() as url:
            client = docker.DockerClient(base_url=url, timeout=600)
            tools.say(f"Images: {engine.base_image(client)}, {engine.redis_image(client)}")
            client.close()
        tools.say(f"Pulumi: {pulumi_cli()}")
    except (engine.NoEngineError, tools.ToolError) as error:
        tools.say(f"The tests of the Docker stack will be skipped: {error}")


if __name__ == "__main__":
    main()
