"""What tells Grafana of its data source and of its dashboards, in the files that it reads at its start."""

import json

from infra.monitoring.dashboards import SOURCE


def provisioning(prometheus_url: str, dashboards: str) -> dict[str, str]:
    """The files by the directory that each goes into, as YAML (JSON is some); `dashboards` is where these are."""
    source = {"name": "Prometheus", "uid": SOURCE, "type": "prometheus", "url": prometheus_url, "isDefault": True}
    provider = {"name": "LookingGlass", "type": "file", "options": {"path": dashboards}}
    return {
        "datasources": json.dumps({"apiVersion": 1, "datasources": [source]}, indent=2),
        "dashboards": json.dumps({"apiVersion": 1, "providers": [provider]}, indent=2),
    }
