"""`python -m tests.bench.stand_in`: the face service with the engine that `BENCH_ENGINE` names."""

import os
from functools import partial

from app.gpu import __main__, service
from app.gpu.pool import EnginePool

if __name__ == "__main__":
    setattr(service, "EnginePool", partial(EnginePool, loader=os.environ["BENCH_ENGINE"]))  # noqa: B010
    __main__.main()
