"""Databases of these tests have the room's tables."""

import pytest


@pytest.fixture
def tables_of() -> str:
    return "registry"
