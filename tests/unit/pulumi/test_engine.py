"""The engine as the program asks it."""

import gc
from pathlib import Path

import pytest
from lookingglass.engine import EngineError, connect


# docker-py leaves each socket that could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("address", ["unix://{0}/none.sock", "tcp://127.0.0.1:9", "unix://{0}/file"])
def test_an_address_where_no_engine_answers_is_named_with_the_key_that_says_it(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    address = address.format(tmp_path)
    said = f"no Docker engine answers at {address}: start it, or set lookingglass:dockerHost"
    with pytest.raises(EngineError, match=said), connect(address, timeout=2):
        pytest.fail("an engine answered")
    gc.collect()
