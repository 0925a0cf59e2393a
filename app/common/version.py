"""The version of the application: what the services report, also as a metric, and what pyproject.toml has."""

from prometheus_client import Info

VERSION = "0.1.0"

Info("lookingglass_build", "What runs.").info({"version": VERSION})
