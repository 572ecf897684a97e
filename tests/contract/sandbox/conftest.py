"""One pool for all tests of sandboxes: starting one is cheap, compiling one is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from feinschliff.sandbox.compiled import shipped
from feinschliff.sandbox.pool import Environments, WasmSandbox

MEMORY_BYTES = 256 * 1024**2


@pytest.fixture(scope="session")
def sandbox() -> Iterator[WasmSandbox]:
    """Compiled by `make setup`; where it is not, the first test waits for that, once per machine."""
    sandbox = WasmSandbox(Environments([shipped()]), workers=2, memory_bytes=MEMORY_BYTES)
    yield sandbox
    sandbox.close()
