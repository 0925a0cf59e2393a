"""Speed, measured side by side with the plainest build; see docs/benchmarks.md."""

import os

CORES = len(os.sched_getaffinity(0))
