"""Two data sets, one job, two adapters: each becomes a version that is served beside the other, or combined with it."""

from __future__ import annotations

import json

import grpc
import pytest

from feinschliff.v1 import inference_pb2, registry_pb2, training_pb2
from tests.e2e.test_kinds import FIXED_PROMPTS, PARENT, WORDS, chat, deploy, question
from tests.support.platform import Platform
from tests.support.waiting import eventually

Recipe = training_pb2.TrainingRecipe
SWAPPED = dict(zip(WORDS, (*WORDS[1:], WORDS[0]), strict=True))


def rows(count: int, *, swapped: bool = False) -> bytes:
    """The same questions in both tasks, with another answer in each."""
    answers = (SWAPPED[WORDS[index % 4]] if swapped else WORDS[index % 4] for index in range(count))
    talks = (
        [{"role": "user", "content": question(index)}, {"role": "assistant", "content": answer}]
        for index, answer in enumerate(answers)
    )
    return b"".join(json.dumps({"messages": one}).encode() + b"\n" for one in talks)


def create(platform: Platform, base: str, *names: str, **changes: object) -> training_pb2.TrainingJob:
    recipe = Recipe(
        base_model=base,
        data=[training_pb2.DataSource(dataset_version=name) for name in names],
        lora=training_pb2.LoraAdaptation(rank=4),
        optimisation=training_pb2.Optimisation(epochs=6, batch_size=4, learning_rate=2e-2),
        precision=Recipe.PRECISION_FP32,
        task_adapters=Recipe.TASK_ADAPTERS_SEPARATE,
        output_model="desk",
    )
    recipe.MergeFrom(Recipe(**changes))  # type: ignore[arg-type]
    job = training_pb2.TrainingJob(recipe=recipe)
    return platform.training.CreateTrainingJob(training_pb2.CreateTrainingJobRequest(parent=PARENT, training_job=job))


@pytest.mark.timeout(300)
def test_every_task_of_a_job_becomes_a_version_that_answers_as_it_was_trained(platform: Platform, base: str) -> None:
    split = {"train_fraction": 0.85, "validation_fraction": 0.15}
    data = {
        "plain": platform.push("plain", rows(48), **split),
        "swapped": platform.push("swapped", rows(24, swapped=True), **split),
    }
    with pytest.raises(grpc.RpcError, match="one task, `plain`"):
        create(platform, base, data["plain"].name)
    job = platform.wait_job(create(platform, base, *(one.name for one in data.values())).name)
    assert job.state == training_pb2.TrainingJob.STATE_SUCCEEDED, job.failure
    versions = dict(job.task_model_versions)
    assert versions == {task: f"{PARENT}/models/desk-{task}/versions/1" for task in data}
    assert not job.model_version
    assert {"loss/plain", "loss/swapped", "validation_loss/swapped"} <= set(job.metrics.others)

    for task, name in versions.items():
        version = platform.registry.GetModelVersion(registry_pb2.GetModelVersionRequest(name=name))
        assert [one.dataset_version for one in version.dataset_versions] == [data[task].name]
        assert (version.training_job, version.labels["task"]) == (job.name, task)
        assert version.metrics["validation_loss"] < 6
    deploy(platform, base, versions)
    for task, name in versions.items():
        version = platform.registry.GetModelVersion(registry_pb2.GetModelVersionRequest(name=name))
        for text, probe in zip(FIXED_PROMPTS, version.golden_probes, strict=False):
            said = inference_pb2.DetokenizeRequest(model=name, ids=probe.token_ids, skip_special_tokens=True)
            expected = platform.inference.Detokenize(said).text
            assert chat(platform, name, text, len(probe.token_ids)) == expected, (task, text)

    adapters = [registry_pb2.AdapterWeight(model_version=name, weight=0.5) for name in versions.values()]
    wanted = registry_pb2.CombineAdaptersRequest(parent=f"{PARENT}/models/both", adapters=adapters)
    export = platform.registry.CombineAdapters(wanted).name

    def combined() -> bool:
        seen = platform.registry.GetExport(registry_pb2.GetExportRequest(name=export))
        assert seen.state != registry_pb2.Export.STATE_FAILED, seen.failure
        return bool(seen.state == registry_pb2.Export.STATE_SUCCEEDED)

    eventually(combined, 60, "the adapters are combined")
