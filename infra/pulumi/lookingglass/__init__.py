"""The environment as Pulumi resources.

Pulumi starts the program, and the process that serves its dynamic providers, in infra/pulumi. What this shares with
the other ways of standing the pipeline up is found from the project's root.
"""

import sys
from pathlib import Path

#: The project's root.
ROOT = Path(__file__).resolve().parents[3]

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
