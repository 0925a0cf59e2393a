"""The Pulumi CLI for the tests: from PATH, else built once from its published source.

It cannot be installed by name from a registry, and its module allows no `go install`; a module of our own that
requires its exact version builds it.
"""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from infra.local import tools

#: The CLI of the SDK's own version.
VERSION = version("pulumi")

GO_MOD = f"""module lookingglass/pulumi

go 1.25.0

require github.com/pulumi/pulumi/pkg/v3 v{VERSION}
"""


def pulumi_cli() -> Path:
    """The CLI's path.

    Raises:
        ToolError: there is none and it cannot be built.
    """
    if found := shutil.which("pulumi"):
        return Path(found)
    with tools.once(f"pulumi-{VERSION}") as (target, missing):
        if missing:
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                _build(Path(scratch))
                (Path(scratch) / "pulumi").rename(target)
    return target


def _build(directory: Path) -> None:
    (directory / "go.mod").write_text(GO_MOD)
    stamp = f"-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{VERSION}"
    package = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
    arguments = ["build", "-v", "-mod=mod", "-trimpath", "-ldflags", stamp, "-o", "pulumi", package]
    tools.run_go("pulumi", arguments, directory)
