"""Model files, and whether they are still the ones that were loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.gpu.engines.base import EngineUnavailableError


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    """Load models from a directory, and take their digest, only inside: so the digest is of what was loaded.

    Raises:
        EngineUnavailableError: the files were changed meanwhile.
    """
    before = _stamps(directory)
    yield
    if _stamps(directory) != before:
        raise EngineUnavailableError(f"The models in {directory} were replaced while they were being loaded.")


def _stamps(directory: Path) -> set[tuple[str, int, int, int]]:
    found = ((path, path.stat()) for path in directory.rglob("*") if path.is_file())
    return {(str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found}
