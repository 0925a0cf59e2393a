"""How a process ended that the service had started, in words."""

import signal
import subprocess

#: Seconds that one which hung up may take to end.
PATIENCE = 1


def end_seen(process: "subprocess.Popen[bytes]") -> str:
    """How a process ended, which it did or is about to."""
    try:
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return "it hung up"
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
