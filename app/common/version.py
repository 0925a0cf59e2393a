"""The version of the application: what the services report, and what pyproject.toml has."""

VERSION = "0.1.0"
