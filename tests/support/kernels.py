"""The kernels of decoding, brought as an image brings them: engines with a fresh cache would compile their own."""

from __future__ import annotations

from contextlib import suppress

import pytest

from feinschliff.lm import kernels


@pytest.fixture(scope="session", autouse=True)
def brought_kernels() -> None:
    """Built once on a machine, until their sources change. Without a compiler engines do what they do without."""
    target = kernels.BROUGHT / kernels.file_name(kernels.level())
    if not target.is_file():
        with suppress(kernels.NoCompiler):
            kernels.build(target, kernels.level())
