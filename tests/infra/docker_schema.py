"""What Pulumi's docker plugin refuses, and in which form it and the engine write back what they took.

The shapes are those of the published SDK, which is made from the plugin's schema. The rest was seen with the plugin.
"""

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pulumi_docker
from pulumi._types import input_type_types, is_input_type
from pulumi.runtime.rpc import UNKNOWN

Props = dict[str, Any]

#: What a value has to look like, by the property's name.
PATTERNS = {
    "restart": r"no|on-failure|always|unless-stopped",
    "containerPath": r"/.*",
    "logDriver": r"[\w-]+",
    **dict.fromkeys(("interval", "timeout", "startPeriod", "startInterval"), r"(\d+(\.\d+)?(ms|h|m|s))+"),
}

#: Properties that may not be negative, and those in which nothing may be empty.
COUNTS = (
    "memory",
    "memorySwap",
    "cpuShares",
    "shmSize",
    "stopTimeout",
    "destroyGraceSeconds",
    "retries",
    "waitTimeout",
)
WITHOUT_EMPTY = {"command": "values for command may not be empty"}

#: Durations, which are written back as Go prints them.
DURATIONS = ("interval", "timeout", "startPeriod")


def refused(kind: str, inputs: Props) -> Iterator[tuple[str, str]]:
    """What the plugin refuses of a resource's inputs: the property, and why."""
    for name in sorted(required(kind) - inputs.keys()):
        yield name, "missing required property"
    yield from _misfits(inputs, shape(getattr(pulumi_docker, f"{kind}Args")), "")
    if inputs.get("wait") and "healthcheck" not in inputs:
        yield "wait", "the container does not have a healthcheck defined"
    for upload in inputs.get("uploads", ()):
        if len({"content", "contentBase64", "source"} & upload.keys()) != 1:
            yield "uploads", "one of 'content', 'content_base64', or 'source' must be set"
        if inputs.get("readOnly"):
            yield "uploads", "container rootfs is marked read-only"


def written_back(kind: str, inputs: Props) -> Props:
    """The properties that come back in another form than they were given in, or were not given at all."""
    if kind == "Service":
        return _service_written_back(inputs)
    if kind != "Container":
        return {}
    found: Props = {"networkMode": inputs.get("networkMode", "bridge")}
    if health := inputs.get("healthcheck"):
        times = {name: go_duration(nanoseconds(health[name])) for name in DURATIONS if name in health}
        found["healthcheck"] = {**health, **times}
    if memory := inputs.get("memory"):
        found["memorySwap"] = inputs.get("memorySwap", 2 * memory)
    if ports := inputs.get("ports"):
        found["ports"] = sorted(ports, key=lambda port: (port["internal"], port.get("external", 0)))
    return found


def _service_written_back(inputs: Props) -> Props:
    """Of a service the durations, which lose what is zero at their end."""
    container = dict(inputs["taskSpec"]["containerSpec"])
    if "stopGracePeriod" in container:
        container["stopGracePeriod"] = short_duration(container["stopGracePeriod"])
    if health := container.get("healthcheck"):
        times = {name: short_duration(health[name]) for name in DURATIONS if name in health}
        container["healthcheck"] = {**health, **times}
    return {"taskSpec": {**inputs["taskSpec"], "containerSpec": container}}


def short_duration(text: str) -> str:
    """A duration without the units that are zero at its end."""
    return re.sub(r"(?<=m)0s$|(?<=h)0m0s$", "", go_duration(nanoseconds(text)))


def required(kind: str) -> set[str]:
    """The properties that a resource of the kind cannot do without."""
    return {"Container": {"image"}, "RemoteImage": {"name"}, "Image": {"imageName"}}.get(kind, set())


def shape(inputs: type) -> Mapping[str, Any]:
    """The type of each property of a resource's inputs, or of a structure in them."""
    found: Mapping[str, Any] = input_type_types(inputs)
    return found


def _misfits(values: Mapping[str, Any], known: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        where = f"{path}{name}"
        if name not in known:
            yield where, f"Unexpected property. One of the following is expected: {', '.join(sorted(known))}"
        elif value is not None:
            yield from _misfit(name, value, known[name], where)


def _misfit(name: str, value: Any, hint: Any, where: str) -> Iterator[tuple[str, str]]:
    if value == UNKNOWN or not isinstance(value, (str, float, list, dict)):
        return  # known only when something else is made
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Union:  # of the value and of what it may be waited for as
        yield from _misfit(name, value, arguments[0], where)
    elif typing.get_origin(hint) is Sequence:
        yield from _misfits_of_list(name, value, arguments[0], where)
    elif typing.get_origin(hint) is Mapping or is_input_type(hint):
        if isinstance(value, dict):
            yield from _misfits(value, dict.fromkeys(value, arguments[1]) if arguments else shape(hint), f"{where}.")
        else:
            yield where, "expected object type"
    else:
        yield from _misfit_of_scalar(name, value, hint, where)


def _misfits_of_list(name: str, value: Any, item: Any, where: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, list):
        yield where, "expected array type"
        return
    if "" in value and name in WITHOUT_EMPTY:
        yield where, WITHOUT_EMPTY[name]
    for number, entry in enumerate(value):
        yield from _misfit(name, entry, item, f"{where}[{number}]")


def _misfit_of_scalar(name: str, value: Any, wanted: type, where: str) -> Iterator[tuple[str, str]]:
    sent: Any = float if wanted is int else wanted  # every number is sent as a float
    if type(value) is not sent or (wanted is int and value % 1):
        yield where, f"expected {wanted.__name__} type, got {value!r}"
    elif name in PATTERNS and not re.fullmatch(PATTERNS[name], str(value)):
        yield where, f"'{value}' does not match '{PATTERNS[name]}'"
    elif name in COUNTS and value < 0:
        yield where, f"'{value}' must be at least 0"
    elif name in ("internal", "external") and not 0 < value < 2**16:
        yield where, f"'{value}' is no port"


def go_duration(of_nanoseconds: int) -> str:
    """A duration as Go prints it: no unit is left out below the largest."""
    seconds, rest = divmod(of_nanoseconds, 10**9)
    text = f"{seconds // 3600}h{seconds // 60 % 60}m{seconds % 60 + rest / 1e9:g}s"
    return text if seconds >= 3600 else re.sub(r"^0h(0m)?", "", text)


def nanoseconds(text: str) -> int:
    """Docker's time of `5s` or `2m0s`."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    return int(sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)(ms|h|m|s)", text)) * 1e9)
