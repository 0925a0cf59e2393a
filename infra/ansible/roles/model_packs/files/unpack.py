"""Unpack a model pack beside its place, note its files' SHA-256, and put it there in one step.

usage: unpack.py ARCHIVE SHA256 DIRECTORY

Runs on the host, with the Python of its distribution (3.9 or newer).
"""

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(2**20), b""):
            digest.update(piece)
    return digest.hexdigest()


def main(archive: Path, expected: str, directory: Path) -> None:
    """Unpack, or end with a sentence."""
    if sha256(archive) != expected:
        sys.exit(f"{archive.name} has the SHA-256 {sha256(archive)}, not {expected}: it was not unpacked.")
    scratch = archive.parent / "unpacked"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as pack:
            pack.extractall(scratch)
    except zipfile.BadZipFile as error:
        sys.exit(f"The pack {directory.name} is not a zip file: {error}.")
    # Some archives hold the files, some a directory with them.
    models = sorted(scratch.rglob("*.onnx"))
    if not models:
        sys.exit(f"The pack {directory.name} holds no .onnx file: it is not a model pack.")
    source = models[0].parent
    lines = [f"archive {expected}"]
    for path in sorted(source.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            lines.append(f"{sha256(path)}  {directory.name}/{path.relative_to(source)}")
    source.chmod(0o755)
    (source / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    (source / "SHA256SUMS").chmod(0o644)
    shutil.rmtree(directory, ignore_errors=True)
    source.replace(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
