"""What was trained in a way that no engine computes is never served as something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from feinschliff.kit.errors import Unserved
from tests.contract.inference.site import Site


@pytest.mark.parametrize("adaptation", ["dora", "last_layers", "ia3", "qlora", "prefix"])
async def test_a_version_trained_in_a_way_that_no_engine_computes_is_refused_at_once(
    site: Site, adapters: dict[str, Path], adaptation: str
) -> None:
    version = site.register(adapters["one"])
    getattr(site.registry.versions[version].recipe, adaptation).SetInParent()

    with pytest.raises(Unserved, match=f"`{adaptation}`") as refused:
        await site.create(routes={"a": version}, wait=False)

    assert refused.value.reason == "ADAPTATION_UNSERVED"
    assert refused.value.metadata["adaptation"] == adaptation
