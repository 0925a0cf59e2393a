"""Which programs the local stack takes from PATH."""

from pathlib import Path

import pytest

from infra.local import tools


def put(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)


@pytest.mark.parametrize(
    ("there", "taken"), [(("silo", "minio"), "silo"), (("minio",), "minio"), (("silo",), "silo")]
)
def test_the_successor_of_minio_is_preferred(
    there: tuple[str, ...], taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, *there)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools.minio() == tmp_path / taken
