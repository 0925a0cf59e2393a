"""Face engines behind one protocol; each is imported only where it is chosen."""

from importlib import import_module

from app.gpu.engines.base import Engine
from app.gpu.settings import EngineSettings


def load(settings: EngineSettings) -> Engine:
    """Load the engine that `ENGINE` names.

    Raises:
        EngineUnavailableError: it cannot run as configured.
    """
    engine: Engine = import_module(f"app.gpu.engines.{settings.engine}").load(settings)
    return engine
