"""What all suites of promises share."""

from __future__ import annotations

from tests.support.kernels import brought_kernels

__all__ = ["brought_kernels"]
