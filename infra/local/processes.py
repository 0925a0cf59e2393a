"""Plain child processes: started with a log file, ended with grace, never left behind."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.common.errors import LookingGlassError

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)

#: Lines of a log shown when its process ended unasked.
LAST_LINES = 15

#: Seconds between two looks at a condition that is waited for.
POLL_SECONDS = 0.1


class ProcessError(LookingGlassError):
    """A process ended unasked, or did not become ready; the message holds its last words."""


@dataclass(slots=True)
class ChildProcess:
    """A program of the stack."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    #: Seconds it may take to finish what it has in hand.
    grace: float = 20
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it in a session of its own, so that a Ctrl-C in the terminal does not reach it before we do."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # the parent starts processes from its main thread only
            )

    @property
    def pid(self) -> int:
        if self.process is None:
            raise ProcessError(f"{self.name} was not started.")
        return self.process.pid

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def check(self) -> None:
        """Raise if it ended.

        Raises:
            ProcessError: with the end of its log.
        """
        if self.process is not None and (code := self.process.poll()) is not None:
            raise ProcessError(
                f"{self.name} ended unasked (exit {code}). The end of {self.log}:\n{self.last_words()}"
            )

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Wait until it is ready.

        Raises:
            ProcessError: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"{self.name} was not ready within {timeout:.0f} s. The end of {self.log}:\n{self.last_words()}"
                )
            time.sleep(POLL_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        if self.running():
            os.kill(self.pid, number)

    def stop(self) -> None:
        """Ask it to end, wait, and then end whatever it left behind."""
        if self.process is None:
            return
        family = self._family()
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.grace)
        _end(family)
        self.process.wait()

    def kill(self) -> None:
        """End it and its descendants at once, as a power cut would."""
        if self.process is not None:
            _end(self._family())
            self.process.wait()

    def restart(self) -> None:
        """Start it again after it was stopped or killed."""
        self.kill()
        self.start()

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"  {line}" for line in lines[-LAST_LINES:])

    def _family(self) -> list[psutil.Process]:
        try:
            leader = psutil.Process(self.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _end(family: list[psutil.Process]) -> None:
    for member in family:
        with suppress(psutil.NoSuchProcess):  # psutil knows a process from another of the same id
            member.kill()


def _end_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
