"""What is asked of a Swarm's manager before the first resource, with stand-ins for what it tells."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import docker.errors
import pulumi
import pytest
from lookingglass import swarm_preflight
from lookingglass.settings import load

SWARM = {"orchestrator": "swarm", "publicAddress": "0.0.0.0", "appImage": "own/app:1", "minioImage": "own/minio:1"}


@dataclass
class Manager:
    """A manager of nodes with these labels, by their hosts' names."""

    labels: dict[str, dict[str, str]]
    #: Commands of the services there are, by name; names of the volumes of the manager's own node.
    running: dict[str, list[str]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    #: Those of them with the stack's label; labels of the containers of the manager's own node.
    ours: list[str] = field(default_factory=list)
    contained: list[dict[str, str]] = field(default_factory=list)
    #: Hosts that do not answer.
    away: tuple[str, ...] = ()
    #: What the tasks of its services do; what is said of a registry that is asked.
    doing: str = "running"
    #: The port that they publish.
    port: int = 5000
    refusal: str = ""
    asked: list[str] = field(default_factory=list)

    def info(self) -> dict[str, Any]:
        return {"Swarm": {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "1"}}

    @property
    def nodes(self) -> Any:
        found = [
            SimpleNamespace(
                id=str(number),
                attrs={
                    "Status": {"State": "down" if host in self.away else "ready", "Addr": f"10.0.0.{number}"},
                    "Spec": {"Availability": "active", "Labels": labels},
                    "Description": {"Hostname": host, "Resources": {}},
                },
            )
            for number, (host, labels) in enumerate(self.labels.items(), 1)
        ]
        return SimpleNamespace(list=lambda: found)

    @property
    def services(self) -> Any:
        found = [
            SimpleNamespace(
                name=name,
                attrs={
                    "Spec": {
                        "TaskTemplate": {"ContainerSpec": {"Args": args}},
                        "EndpointSpec": {"Ports": [{"PublishedPort": self.port}]},
                    }
                },
                tasks=lambda _: [{"Status": {"State": self.doing}}],
            )
            for name, args in self.running.items()
        ]

        def listed(filters: dict[str, str]) -> list[SimpleNamespace]:
            return [service for service in found if service.name.startswith(filters.get("name", ""))]

        return SimpleNamespace(list=listed)

    @property
    def api(self) -> Any:
        return SimpleNamespace(inspect_distribution=self._distribution)

    def _distribution(self, reference: str) -> None:
        self.asked.append(reference)
        if self.refusal:
            raise docker.errors.APIError(self.refusal, explanation=self.refusal)

    @property
    def volumes(self) -> Any:
        def listed(filters: Any = None) -> list[SimpleNamespace]:
            return [SimpleNamespace(name=name) for name in ([] if filters else self.kept) + self.ours]

        return SimpleNamespace(list=listed)

    @property
    def containers(self) -> Any:
        found = [SimpleNamespace(labels=labels) for labels in self.contained]
        return SimpleNamespace(list=lambda **_: found)


def labelled(qdrant: int, minio: int, nodes: int = 4) -> dict[str, dict[str, str]]:
    """Nodes a, b, c …, each with the number of a volume of the services that have as many."""
    found: dict[str, dict[str, str]] = {}
    for number in range(1, nodes + 1):
        counts = {"qdrant": qdrant, "minio": minio, "redis": 1}
        found["abcdef"[number - 1]] = {
            f"lookingglass.{role}": str(number) for role, count in counts.items() if number <= count
        }
    return found


def look(manager: Manager, **config: str) -> swarm_preflight.Found:
    return swarm_preflight.look(manager, load({**SWARM, **config}), "main")  # type: ignore[arg-type]


def test_enough_nodes_with_their_numbers_are_taken_and_the_first_is_the_address() -> None:
    found = look(Manager(labelled(qdrant=3, minio=4)), qdrantNodes="3", minioNodes="4")
    assert found.problems == []
    assert found.hosts == {"redis": "10.0.0.1", "minio": "10.0.0.1", "qdrant": "10.0.0.1"}


def test_more_nodes_than_there_are_is_one_line() -> None:
    [problem] = look(Manager(labelled(qdrant=1, minio=1, nodes=3)), minioNodes="4").problems
    assert problem == "minioNodes: 4 need as many nodes, each its own; the Swarm has 3"


def test_a_number_that_no_node_has_is_named_with_the_command_that_gives_it() -> None:
    [problem] = look(Manager(labelled(qdrant=2, minio=1)), qdrantNodes="3").problems
    assert "no node that is ready has the label lookingglass.qdrant=3" in problem
    assert "`docker node update --label-add lookingglass.qdrant=3 NODE`, with NODE one of a, b, c, d" in problem


def test_a_number_that_two_nodes_have_is_refused() -> None:
    labels = labelled(qdrant=3, minio=1)
    labels["d"]["lookingglass.qdrant"] = "2"
    [problem] = look(Manager(labels), qdrantNodes="3").problems
    assert problem.startswith("qdrant keeps its data on one node, and b, d have the label lookingglass.qdrant=2")


def test_one_of_several_may_be_away_which_is_said_and_the_only_one_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(pulumi, "warn", said.append)
    found = look(Manager(labelled(qdrant=3, minio=4), away=("a",)), qdrantNodes="3", minioNodes="4")
    [problem] = found.problems
    assert problem.startswith("redis keeps data, and no node that is ready has the label lookingglass.redis=1")
    assert found.hosts == {"minio": "10.0.0.2", "qdrant": "10.0.0.2"}
    assert "a, which has the label lookingglass.minio=1, is away: a change of minio waits for it." in said
    every = look(Manager(labelled(qdrant=3, minio=1), away=("a", "b", "c")), qdrantNodes="3").problems
    assert "qdrantNodes: none of its nodes is ready" in every


FOUR = ["server", "http://minio-{1...4}:9000/data"]


@pytest.mark.parametrize(
    ("running", "kept", "config", "said"),
    [
        (["qdrant"], [], {"qdrantNodes": "3"}, "qdrantNodes: lookingglass-main-qdrant holds the index of another"),
        ([], ["qdrant"], {"qdrantNodes": "3"}, "`docker volume rm lookingglass-main-qdrant` on its node"),
        (["qdrant-3"], [], {"qdrantNodes": "1"}, "qdrantNodes: lookingglass-main-qdrant-3 holds the index of"),
        (["qdrant-4"], [], {"qdrantNodes": "3"}, "qdrantNodes: lookingglass-main-qdrant-4 has a part of the index"),
        (["minio"], [], {"minioNodes": "4"}, "minioNodes: lookingglass-main-minio holds the objects of another"),
        ([], ["minio"], {"minioNodes": "4"}, "bring up another stack with 4 and copy the objects (`mc mirror`)"),
        (["minio-1"], [], {"minioNodes": "1"}, "minioNodes: lookingglass-main-minio-1 holds the objects of another"),
        (["minio-1"], [], {"minioNodes": "5"}, "minioNodes: each object is spread over 4 nodes, which stays so"),
    ],
)
def test_data_of_another_number_of_nodes_is_not_left_behind(
    running: list[str], kept: list[str], config: dict[str, str], said: str
) -> None:
    wanted = {"qdrant": 1, "minio": 1} | {key.removesuffix("Nodes"): int(count) for key, count in config.items()}
    manager = Manager(
        labelled(**wanted, nodes=5),
        {f"lookingglass-main-{name}": FOUR for name in running},
        [f"lookingglass-main-{name}" for name in kept],
    )
    [problem] = look(manager, **config).problems
    assert said in problem


def test_what_was_begun_is_gone_on_with_and_an_index_may_grow() -> None:
    begun = {f"lookingglass-main-{name}": FOUR for name in ("qdrant-1", "qdrant-2", "minio-1", "minio-2")}
    found = look(
        Manager(labelled(qdrant=3, minio=4), begun, ["lookingglass-main-minio-events-1"]),
        qdrantNodes="3",
        minioNodes="4",
    )
    assert found.problems == []


def test_monitoring_wants_nodes_for_what_it_keeps() -> None:
    nodes = labelled(qdrant=1, minio=1, nodes=2)
    said = "\n".join(look(Manager(nodes), monitoring="true").problems)
    for role in ("prometheus", "grafana"):
        assert f"`docker node update --label-add lookingglass.{role}=1 NODE`" in said
        nodes["b"][f"lookingglass.{role}"] = "1"
    found = look(Manager(nodes), monitoring="true")
    assert (found.problems, found.hosts["prometheus"]) == ([], "10.0.0.2")


REGISTRY = {"registry": "10.0.0.1:5000", "runRegistry": "true", "minioImage": "build"}


def with_registry(**more: Any) -> Manager:
    nodes = labelled(qdrant=1, minio=1, nodes=2)
    nodes["a"]["lookingglass.registry"] = "1"
    return Manager(nodes, **more)


def test_a_registry_of_the_stacks_own_is_not_asked_before_it_is_up() -> None:
    first = with_registry(refusal="connection refused")
    assert look(first, **REGISTRY).problems == []
    failing = with_registry(
        refusal="connection refused", doing="rejected", running={"lookingglass-main-registry": []}
    )
    moving = with_registry(refusal="connection refused", port=5050, running={"lookingglass-main-registry": []})
    another = with_registry(refusal="connection refused", running={"lookingglass-main-registry-of-another": []})
    for manager in (first, failing, moving, another):
        assert look(manager, **REGISTRY).problems == []
        assert manager.asked == []


def test_one_that_is_up_has_to_answer() -> None:
    manager = with_registry(refusal="connection refused", running={"lookingglass-main-registry": []})
    [problem] = look(manager, **REGISTRY).problems
    assert problem == "registry: 10.0.0.1:5000 does not answer the engine: connection refused"
    assert look(with_registry(running=manager.running), **REGISTRY).problems == []


def test_one_that_moves_leaves_its_volume_behind() -> None:
    manager = with_registry(ours=["lookingglass-main-registry"])
    manager.labels["b"]["lookingglass.registry"] = manager.labels["a"].pop("lookingglass.registry")
    assert look(manager, **REGISTRY).problems == []


def test_a_registry_without_its_node_is_one_line_that_names_the_playbook() -> None:
    [problem] = look(Manager(labelled(qdrant=1, minio=1, nodes=2)), **REGISTRY).problems
    assert "no node that is ready has the label lookingglass.registry=1: `make cluster` gives it to" in problem


def test_a_stack_that_runs_as_containers_is_not_doubled_but_told_how_to_move() -> None:
    nodes = labelled(qdrant=1, minio=1, nodes=2)
    [problem] = look(Manager(nodes, contained=[{"org.lookingglass.stack": "main"}])).problems
    assert problem.startswith(
        "orchestrator: this stack runs as containers of this engine; `pulumi destroy` takes them"
    )
    own_task = {"org.lookingglass.stack": "main", "com.docker.swarm.service.id": "x"}
    assert look(Manager(nodes, contained=[own_task])).problems == []


def test_data_of_the_stack_before_the_swarm_is_found_on_its_node_and_not_left_behind_on_it() -> None:
    left = [f"lookingglass-main-{name}" for name in ("redis", "minio", "minio-events", "qdrant")]
    nodes = labelled(qdrant=1, minio=1, nodes=2)
    assert look(Manager(nodes, ours=left)).problems == []
    nodes["b"]["lookingglass.minio"] = nodes["a"].pop("lookingglass.minio")
    [problem] = look(Manager(nodes, ours=left)).problems
    assert problem == (
        "minio: its data is in the volume lookingglass-main-minio of this engine's node, and b has the label "
        "lookingglass.minio=1: give it to this node, or remove the volume"
    )
