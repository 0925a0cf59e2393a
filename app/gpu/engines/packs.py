"""insightface's model packs: where one lies, how one is fetched, and what tells two apart."""

import hashlib
import logging
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from insightface.model_zoo import has_model_package_manifest
from insightface.utils import ensure_available

from app.gpu.engines.base import EngineUnavailableError
from app.gpu.settings import EngineSettings

log = logging.getLogger(__name__)


def find(settings: EngineSettings) -> Path:
    """The directory that holds the pack; fetched first where it is missing and its licence was acknowledged.

    Raises:
        EngineUnavailableError: it is not there, or could not be fetched.
    """
    pack = _locate(settings.model_dir, settings.model_pack)
    if pack is None and settings.insightface_license == "non-commercial":
        _fetch(settings.model_dir, settings.model_pack)
        pack = _locate(settings.model_dir, settings.model_pack)
    if pack is None:
        raise EngineUnavailableError(
            f"The model pack {settings.model_pack} is not in MODEL_DIR={settings.model_dir}: put its .onnx files "
            f"into {settings.model_dir / settings.model_pack}. insightface's pretrained packs are for "
            "non-commercial use only; to have one fetched on those terms, set INSIGHTFACE_LICENSE=non-commercial."
        )
    return pack


def model_id(name: str, files: Iterable[str]) -> str:
    """Name and digest of the models used: the same files give the same id wherever they lie."""
    digest = hashlib.sha256()
    for file in files:
        with Path(file).open("rb") as stream:
            while chunk := stream.read(2**20):
                digest.update(chunk)
    return f"{name.lower()}-{digest.hexdigest()[:12]}"


def _locate(model_dir: Path, name: str) -> Path | None:
    # As packs are unpacked (some hold a directory of their own name), and as insightface itself lays them out.
    for way in (name, f"{name}/{name}", f"models/{name}", f"models/{name}/{name}"):
        pack = model_dir / way
        if any(pack.glob("*.onnx")) or has_model_package_manifest(pack):
            return pack
    return None


def _fetch(model_dir: Path, name: str) -> None:
    log.warning("Fetching the model pack %s, which is for non-commercial use only, into %s.", name, model_dir)
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        # insightface takes a directory that is there for a whole pack, so a broken-off download must not leave one.
        with TemporaryDirectory(dir=model_dir, prefix=".fetching-") as scratch:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                fetched = Path(ensure_available("models", name, root=scratch))
            fetched.replace(model_dir / name)
    except Exception as error:  # of requests, zipfile and the file system
        raise EngineUnavailableError(
            f"The model pack {name} could not be fetched into MODEL_DIR={model_dir} ({error}): check its name, the "
            f"network and the disk, or put its .onnx files into {model_dir / name} by hand."
        ) from error
