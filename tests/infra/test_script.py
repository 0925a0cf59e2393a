"""`make` and `pulumi` itself see one state, with one passphrase."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.local import tools
from tests.infra.docker_plugin import ROOT
from tests.infra.pulumi_cli import pulumi_cli

PASSPHRASE = ".pulumi-state/passphrase"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project as far as Pulumi keeps state in it, with the CLI in `bin`."""
    try:
        cli = pulumi_cli()
    except tools.ToolError as error:
        pytest.skip(str(error))
    for path in ("scripts", "infra/pulumi", ".pulumi-state", "bin"):
        (tmp_path / path).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "pulumi.sh", tmp_path / "scripts")
    shutil.copy(ROOT / "Pulumi.yaml", tmp_path)
    link = ROOT / "infra" / "pulumi" / ".pulumi-state"
    (tmp_path / "infra" / "pulumi" / ".pulumi-state").symlink_to(link.readlink())
    (tmp_path / "bin" / "pulumi").symlink_to(cli)
    return tmp_path


def run(project: Path, *command: str, **more: str) -> str:
    """What a command says, in an environment that says nothing of Pulumi's state."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PULUMI_")}
    environment |= {"PATH": f"{project / 'bin'}:{os.environ['PATH']}", "PULUMI_SKIP_UPDATE_CHECK": "true", **more}
    home = {"PULUMI_HOME": str(project / "home")}
    done = subprocess.run(command, cwd=project, env=environment | home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_one_of_them_writes_the_other_reads(project: Path) -> None:
    run(project, "scripts/pulumi.sh", "dev", "config", "set", "lookingglass:workers", "3")
    secret = project / PASSPHRASE
    assert secret.stat().st_mode & 0o077 == 0
    own = {"PULUMI_CONFIG_PASSPHRASE_FILE": str(secret)}
    assert "dev*" in run(project, "pulumi", "stack", "ls", **own)
    assert run(project, "pulumi", "config", "get", "workers", **own).strip() == "3"
    run(project, "pulumi", "config", "set", "--secret", "imageBucket", "hidden-from-view", **own)
    assert run(project, "scripts/pulumi.sh", "dev", "config", "get", "imageBucket").strip() == "hidden-from-view"


def test_the_passphrase_is_made_once_and_a_chosen_one_is_left_alone(project: Path) -> None:
    run(project, "scripts/pulumi.sh", "dev", "stack", "ls", PULUMI_CONFIG_PASSPHRASE="chosen")
    assert not (project / PASSPHRASE).exists()
    shutil.rmtree(project / ".pulumi-state" / ".pulumi")
    (project / "Pulumi.dev.yaml").unlink(missing_ok=True)
    run(project, "scripts/pulumi.sh", "dev", "stack", "ls")
    made = (project / PASSPHRASE).read_text()
    run(project, "scripts/pulumi.sh", "gpu", "stack", "ls")
    assert (project / PASSPHRASE).read_text() == made
