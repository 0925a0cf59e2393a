"""An operator's side: an inventory, variables that point at the test's repositories, and `ansible-playbook`."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ansible.machine import Machine
from tests.ansible.repository import DRIVERS, Repositories
from tests.infra.docker_plugin import ROOT

PLAYBOOKS = ROOT / "infra" / "ansible"

LOOPBACK = "http://127.0.0.1:8000"


@dataclass
class Result:
    """What a run of the playbook came to."""

    code: int
    output: str

    def count(self, what: str) -> int:
        """A figure of the recap, over all hosts."""
        return sum(int(number) for number in re.findall(rf"\b{what}=(\d+)", self.output))

    @property
    def changed(self) -> list[str]:
        """The tasks that changed something."""
        tasks = re.findall(r"^TASK \[(.*?)\][ *]*\n((?:(?!TASK ).*\n)*)", self.output, re.MULTILINE)
        return [name for name, said in tasks if re.search("^changed:", said, re.MULTILINE)]

    @property
    def said(self) -> str:
        """The output with its lines joined, in which a sentence can be looked for."""
        return " ".join(self.output.split())


@dataclass
class Site:
    """A control machine's directory."""

    directory: Path
    repositories: Repositories
    #: Image for the verification's container, which each machine's engine is given by hand.
    image: str
    ssh: Path
    variables: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        repositories = self.repositories
        for role, name in (
            ("docker", "docker"),
            ("nvidia_driver", "driver"),
            ("nvidia_container_toolkit", "toolkit"),
        ):
            self.variables[f"{role}_repository"] = f"{LOOPBACK}/{name}"
            self.variables[f"{role}_key_fingerprint"] = repositories.fingerprint
            self.variables[f"{role}_key"] = f"{LOOPBACK}/key.asc"
        self.variables |= {
            "nvidia_driver_key": str(repositories.key),  # one from the control machine, as an air-gapped site has it
            "nvidia_driver_branch": DRIVERS[0].partition(".")[0],
            "nvidia_driver_version": DRIVERS[0],
            "verification_image": self.image,
            "verification_reports": str(self.directory / "reports"),
            "model_packs_wanted": [self.pack()],
        }

    def pack(self) -> dict[str, str]:
        """A pack of models whose archive has a directory of its own."""
        archive = self.directory / "stand_in.zip"
        with zipfile.ZipFile(archive, "w") as pack:
            pack.writestr(zipfile.ZipInfo("stand_in/det.onnx"), b"a detector")
            pack.writestr(zipfile.ZipInfo("stand_in/rec.onnx"), b"an embedder")
        sha256 = subprocess.run(["sha256sum", archive], check=True, capture_output=True).stdout.split()[0].decode()
        return {"name": "stand_in", "archive": str(archive), "sha256": sha256}

    def play(self, machine: Machine, *arguments: str, kill_after: float | None = None, **variables: Any) -> Result:
        """Make a machine a GPU host, and kill the playbook after so many seconds where asked to."""
        inventory = {"gpu_hosts": {"hosts": {machine.container.name: self.host(machine)}}}
        return self.run("gpu_hosts.yml", inventory, *arguments, kill_after=kill_after, **variables)

    def host(self, machine: Machine, **variables: Any) -> dict[str, Any]:
        """A machine's line in an inventory."""
        return {
            "ansible_host": machine.address,
            "ansible_user": "ops",
            "ansible_ssh_executable": str(self.ssh),
        } | variables

    def run(
        self,
        playbook: str,
        inventory: dict[str, Any],
        *arguments: str,
        kill_after: float | None = None,
        **variables: Any,
    ) -> Result:
        """Run a playbook on the groups of an inventory."""
        hosts = self.directory / "hosts.json"
        hosts.write_text(json.dumps(inventory))
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(hosts)]
        command += ["-e", json.dumps(self.variables | variables), str(PLAYBOOKS / playbook), *arguments]
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "PYTHONWARNINGS": "ignore",
        }
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=kill_after)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
        return Result(process.returncode, output)

    def prepare(self, machine: Machine, **variables: Any) -> None:
        """Run the whole playbook; Docker's part before, so that the engine can be given the image by hand."""
        first = self.play(machine, "--tags", "docker", **variables)
        assert first.code == 0, first.output
        machine.run("docker load --quiet --input /srv/repository/base.tar")
        result = self.play(machine, **variables)
        assert result.code == 0, result.output

    def report(self, machine: Machine) -> dict[str, Any]:
        """The report of a machine."""
        found = json.loads((self.directory / "reports" / f"{machine.container.name}.json").read_text())
        assert isinstance(found, dict)
        return found
