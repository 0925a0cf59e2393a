"""`make bench`: speed as a ratio, two things measured in turn in one run on one machine; see docs/benchmarks.md."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.bench import decodings, face_services, growth, jobs, pipelines, redis_load, webhooks
from tests.bench.measure import Figure
from tests.bench.report import DOCS, line, write
from tests.bench.sizes import NORMAL, QUICK, WHOLE, Sizes

#: What can be measured alone, in the order of the targets.
PARTS: dict[str, Callable[[Sizes], Iterator[Figure]]] = {
    "events": webhooks.one_sender,
    "backlog": webhooks.backlog,
    "jobs": jobs.one_worker,
    "clients": face_services.clients,
    "dlib": pipelines.dlib,
    "stand-in": pipelines.stand_in,
    "phone-photo": decodings.phone_photo,
    "card": face_services.simulated_card,
    "services": face_services.several,
    "videos": jobs.videos,
    "counts": redis_load.counts,
    "objects": growth.objects,
    "images": growth.images,
    "redis-memory": redis_load.memory,
}


def main() -> None:
    """Measure what was named, or everything, and print a line for each figure as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all, if none is named")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few rounds of little, in some minutes")
    size.add_argument("--whole", action="store_true", help="as large as the targets have it, in an hour and more")
    parser.add_argument("--rounds", type=int, help="how often each pair is measured")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {DOCS}/benchmarks.*")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    sizes = QUICK if arguments.quick else WHOLE if arguments.whole else NORMAL
    if arguments.rounds:
        sizes = replace(sizes, rounds=arguments.rounds)
    for name in arguments.parts or PARTS:
        started = time.monotonic()
        for figure in PARTS[name](sizes):
            print(line(figure), flush=True)
            if arguments.write:
                write(figure)
        print(f"  ({name}: {time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
