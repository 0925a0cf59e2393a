"""`make faults`: every fault at full size, and the table of what became of it."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

COLUMNS = {
    "fault": "fault",
    "objects": "objects",
    "uploads": "uploads",
    "lost before reconcile": "differences before reconcile",
    "seconds to agreement": "seconds to agreement",
    "processed twice": "analysed twice",
    "failed jobs": "failed jobs",
    "seconds of reconcile": "seconds of reconcile",
}


def main() -> int:
    """Run the faults, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition(": ")[2])
    parser.add_argument("--objects", type=int, default=2000, help="objects that each fault meets (2000)")
    parser.add_argument(
        "--reconcile", action="store_true", help="compare buckets and index as soon as a fault is over"
    )
    parser.add_argument("--only", default="", metavar="EXPRESSION", help="of pytest's -k: which faults")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report"
        environment = os.environ | {
            "FAULT_OBJECTS": str(arguments.objects),
            "FAULT_RECONCILE": str(int(arguments.reconcile)),
            "FAULT_REPORT": str(report),
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "tests/faults/test_faults.py",
            "-k",
            arguments.only or "after or times",
        ]
        code = subprocess.run(command, env=environment, check=False).returncode
        rows = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    print(table(rows))
    return code


def table(rows: list[dict[str, object]]) -> str:
    """The figures as a Markdown table."""
    lines = [f"| {' | '.join(COLUMNS.values())} |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    lines += [f"| {' | '.join(str(row.get(name, '')) for name in COLUMNS)} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
