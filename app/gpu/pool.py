"""A picture's way: its turn, a decoder, a slot in shared memory, an engine."""

import time
from typing import Any

from app.gpu import analysis
from app.gpu.analysis import Analysis
from app.gpu.decoding import Decoders
from app.gpu.inference import LOADER, Engines
from app.gpu.settings import FaceSettings
from app.gpu.sizing import sizes
from app.gpu.turns import Lane, Turns

#: Seconds a picture waits for its turn before its sender is told to come back.
TURN_TIMEOUT = 30

#: Times ANALYSIS_TIMEOUT that a picture may take from its turn on: to be decoded, to be looked at among others for
#: half of it, and once more alone if that failed.
LONGEST = 2


class EnginePool:
    """Decoders and engines; `close()` ends them.

    Raises:
        EngineUnavailableError: the engine cannot run as configured.
        TransientError: decoders do not start.
    """

    def __init__(self, settings: FaceSettings, loader: str = LOADER) -> None:
        """`loader` names what loads the engine in its process, as `module:function`."""
        self._longest = LONGEST * settings.analysis_timeout
        self._engines = Engines(settings, loader)
        self.info = self._engines.info
        self.sizes = sizes(settings, self.info)
        try:
            self._decoders = Decoders(
                settings, number=self.sizes.decoders, slots=self.sizes.places, max_side=self.info.max_side
            )
        except BaseException:
            self._engines.close()
            raise
        self._engines.serve(self.sizes.processes, self._decoders.slots)
        self._turns = Turns(self.sizes.places, waiting=settings.max_waiting, timeout=TURN_TIMEOUT)

    @property
    def problem(self) -> str | None:
        """Why no engine process can take a picture; None while at least one may."""
        return self._engines.problem

    def state(self) -> dict[str, Any]:
        """How many processes there are and are ready, what is wrong with the others, and how long an answer takes."""
        return {
            **self._engines.state(),
            "decoders": self.sizes.decoders,
            "answer_timeout_s": TURN_TIMEOUT + self._longest,
        }

    def analyse(self, data: bytes, lane: Lane) -> Analysis:
        """Find the faces of a picture, given as its file's bytes, when its turn has come.

        Raises:
            PermanentError: the picture can never be decoded.
            EngineCrashedError: a decoder or an engine died, failed or ran out of time or memory on it.
            TransientError: no engine process can be used now.
            BusyError: too many wait already, or its turn did not come in time.
        """
        with self._turns.turn(lane):
            deadline = time.monotonic() + self._longest
            with self._decoders.decode(data) as decoded:
                return analysis.analyse(decoded, self._engines, deadline)

    def close(self) -> None:
        """End the processes, each when it is done with what it has in hand."""
        self._engines.close()
        self._decoders.close()
