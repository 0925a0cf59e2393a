"""What an engine process may do to the machine it runs on."""

from concurrent.futures import Future
from multiprocessing import get_context

import numpy as np
import pytest
from pebble import ProcessPool

from app.gpu import analysis
from app.gpu.decode import MEMORY, MEMORY_PER_PIXEL
from app.gpu.settings import FaceSettings
from tests import media


def take(number: int) -> int:
    """Ask for so many bytes, as a decoder does that believes a hostile header."""
    return int(np.empty(number, np.uint8).nbytes)


def test_a_decoder_that_wants_too_much_memory_fails_alone(photos: dict[str, bytes]) -> None:
    settings = FaceSettings(max_image_pixels=10**6)
    most = MEMORY + MEMORY_PER_PIXEL * settings.max_image_pixels
    picture = media.jpeg(media.portrait(photos))
    with ProcessPool(
        max_workers=1, initializer=analysis.start, initargs=[settings], context=get_context("spawn")
    ) as pool:
        pool.schedule(analysis.describe).result()
        for _ in range(2):
            done: Future[analysis.Analysis] = pool.schedule(analysis.analyse, args=[picture])
            assert len(done.result().faces) == 1
            assert pool.schedule(take, args=[most // 2]).result() == most // 2
            with pytest.raises(MemoryError):
                pool.schedule(take, args=[most]).result()
