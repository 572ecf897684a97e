"""What a job leaves in the store is loaded by its recorded digests and says the golden probes that it was left with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from feinschliff.formats.report import GoldenProbe, Result
from feinschliff.inference.engine import GenerationRequest
from feinschliff.inference.engines import EngineOptions
from feinschliff.inference.engines.decks import Decks
from feinschliff.inference.engines.row import Row
from feinschliff.inference.life import Version
from feinschliff.inference.loader import ArtifactLoader
from feinschliff.lm.load import load_model
from tests.support.trainer import JOB, Workshop, rows_for

SETTINGS: dict[str, dict[str, Any]] = {
    "dora": {},
    "qlora": {"quantisation": "int8"},
    "bottleneck": {},
    "p_tuning": {"virtual_tokens": 4, "encoder_width": 16},
    "prefix": {"virtual_tokens": 4},
    "last_layers": {"layers": 1},
    "full": {},
}
LOG_PROBABILITY_TOLERANCE = 1e-3


def trained(folder: Path, base: Path, objective: str, adaptation: dict[str, Any]) -> tuple[Workshop, Result, Version]:
    workshop = Workshop(folder, base, train=rows_for(objective, 12))
    optimisation = {"steps_max": 3, "batch_size": 4, "learning_rate": 1e-2}
    workshop.recipe = {"objective": {"kind": objective}, "adaptation": adaptation, "optimisation": optimisation}
    manifest = workshop.run()
    assert manifest is not None
    result = Result.model_validate(manifest.meta)
    version = Version(
        name="projects/default/models/m/versions/1",
        base_model=result.base_model,
        base_digest=result.base_digest,
        adapter_uri=f"s3://{workshop.store.bucket}/{JOB}/result",
        adapter_sha256=manifest.digest.removeprefix("sha256:"),
        adapter_digest=result.adapter_digest,
    )
    return workshop, result, version


def served(workshop: Workshop, version: Version) -> Decks:
    loader = ArtifactLoader(workshop.store, EngineOptions(cache_dir=workshop.folder / "cache"), offline=True)
    decks = Decks(load_model(workshop.base, precision="fp32"), context_tokens=512)
    with loader.fetch(version) as folder:
        decks.prepare(version.adapter_digest, folder)()
    return decks


@torch.inference_mode()
def logprobs(decks: Decks, digest: str, probe: GoldenProbe) -> list[float]:
    """Of each token of the probe's answer, read one by one behind its prompt."""
    ids = [*probe.prompt_token_ids, *probe.token_ids]
    row = Row.of(GenerationRequest(ids, digest), lambda event: None, decode=str, stop_ids=())
    deck, start, found = decks.of(row), 0, []
    for stop in range(len(probe.prompt_token_ids), len(ids)):
        logits_V = deck.read(row, start, stop)
        found.append(float(logits_V.log_softmax(-1)[ids[stop]]))
        start = stop
    return found


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_result_says_its_golden_probes(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    workshop, result, version = trained(tmp_path / "job", tiny_model, "sft", {"kind": kind, **SETTINGS[kind]})
    decks = served(workshop, version)
    assert result.golden_probes
    for probe in result.golden_probes:
        found = logprobs(decks, version.adapter_digest, probe)
        assert found == pytest.approx(probe.logprobs, abs=LOG_PROBABILITY_TOLERANCE)


@pytest.mark.parametrize(("objective", "outputs"), [("classify", 4), ("regress", 1)])
def test_a_result_brings_a_head_that_scores_its_golden_probes(
    tiny_model: Path, tmp_path: Path, objective: str, outputs: int
) -> None:
    adaptation = {"kind": "last_layers", "layers": 0}
    workshop, result, version = trained(tmp_path / "job", tiny_model, objective, adaptation)
    decks = served(workshop, version)
    head = decks.head(version.adapter_digest)
    assert head is not None
    assert (head.facts.kind, head.facts.outputs) == (objective, outputs)
    with torch.inference_mode():
        judged = decks.judge([probe.prompt_token_ids for probe in result.golden_probes], version.adapter_digest)
    for probe, found in zip(result.golden_probes, judged, strict=True):
        said = found if objective == "regress" else [math.log(one) for one in found]
        assert said == pytest.approx(probe.scores, abs=LOG_PROBABILITY_TOLERANCE)
