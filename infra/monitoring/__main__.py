"""`python -m infra.monitoring DIRECTORY --outputs FILE`: write what Prometheus and Grafana of one's own need.

`prometheus.yml` and `alerts.yml` for `prometheus --config.file`, and `grafana/` with the data source and the
dashboards, whose `provisioning` goes where Grafana looks for it (GF_PATHS_PROVISIONING).
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from infra.monitoring.dashboards import dashboards
from infra.monitoring.prometheus import ALERTS, Target, configuration, targets
from infra.monitoring.provisioning import provisioning

#: What tells of others, and is not of the pipeline's own.
EXPORTERS = ("redis-exporter", "gpu-exporter")


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(prog="python -m infra.monitoring", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--outputs", type=Path, default=Path(".lookingglass/outputs.json"), help="of the pipeline")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="where Grafana finds Prometheus")
    for name in EXPORTERS:
        parser.add_argument(f"--{name}", action="append", default=[], metavar="URL", help="of yours; may be repeated")
    arguments = parser.parse_args()
    exporters = [Target(name, url) for name in EXPORTERS for url in getattr(arguments, name.replace("-", "_"))]
    write(arguments.directory, json.loads(arguments.outputs.read_text()), arguments.prometheus, exporters)


def write(
    directory: Path, outputs: dict[str, str | None], prometheus_url: str, exporters: Sequence[Target] = ()
) -> None:
    """Write all of it; what holds tokens is readable by its owner only."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ALERTS, directory / "alerts.yml")
    prometheus = directory / "prometheus.yml"
    prometheus.touch(mode=0o600)
    prometheus.chmod(0o600)
    prometheus.write_text(configuration([*targets(outputs), *exporters], str((directory / "alerts.yml").absolute())))
    grafana = (directory / "grafana").absolute()
    for name, text in dashboards():
        _put(grafana / "dashboards" / f"{name}.json", text)
    for name, text in provisioning(prometheus_url, str(grafana / "dashboards")).items():
        _put(grafana / "provisioning" / name / "lookingglass.yml", text)


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    main()
