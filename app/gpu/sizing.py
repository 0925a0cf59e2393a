"""How many of everything: decoders, engine processes, pictures under way."""

import os
from dataclasses import dataclass

from app.gpu.engines.base import EngineInfo
from app.gpu.settings import FaceSettings
from app.gpu.turns import LANES

#: Most pictures under way: each has a slot, and a process can be given about 250 descriptors at once.
MOST_PLACES = 128


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a face service consists of."""

    #: Engine processes.
    processes: int
    decoders: int
    #: Pictures being decoded, decoded or looked at: each has a place, and a slot for its pixels.
    places: int


def sizes(settings: FaceSettings, info: EngineInfo) -> Sizes:
    """As set, or as they suit the cores of this machine and the engine's device.

    On a CPU engines and decoders share the cores; who is behind gets them, so there are enough of both. A GPU wants
    one process, whose calls go on while others are prepared, and as many decoders as the other cores can run.
    """
    cores, on_cpu = len(os.sched_getaffinity(0)), info.device == "cpu"
    processes = settings.engine_processes or (cores if on_cpu else 1)
    decoders = settings.decoders or (cores if on_cpu else max(1, cores - 1))
    # Being looked at, ready to follow, being decoded.
    places = 2 * processes * info.threads * info.batch + decoders
    return Sizes(processes, min(decoders, MOST_PLACES), min(places, MOST_PLACES))


def most_requests(settings: FaceSettings) -> int:
    """How many requests for an analysis may be under way at once, those included that wait for their turn."""
    return MOST_PLACES + settings.max_waiting * len(LANES)
