"""Whatever a job trains is served: adapters of several kinds beside one base, and a head that classifies."""

from __future__ import annotations

import json

import pytest

from feinschliff.v1 import common_pb2, inference_pb2, registry_pb2, training_pb2
from tests.support.platform import Platform
from tests.support.waiting import eventually

PARENT = "projects/default"
WORDS = ("order", "refund", "invoice", "delivery")
FIXED_PROMPTS = ("What is the capital of France?", "Nenne drei Farben.", "Write one short sentence about rain.")
RECIPES = {
    "dora": training_pb2.TrainingRecipe(dora=training_pb2.DoraAdaptation()),
    "prompt": training_pb2.TrainingRecipe(prompt=training_pb2.PromptAdaptation(virtual_tokens=8)),
    "head": training_pb2.TrainingRecipe(
        classify=training_pb2.ClassifyObjective(), lora=training_pb2.LoraAdaptation(rank=4)
    ),
}


def question(index: int) -> str:
    return f"hello {'please ' * (index % 5)}help with my {WORDS[index % 4]} {index}"


def rows(count: int) -> bytes:
    turns = (
        [{"role": "user", "content": question(index)}, {"role": "assistant", "content": WORDS[index % 4]}]
        for index in range(count)
    )
    return b"".join(json.dumps({"messages": one}).encode() + b"\n" for one in turns)


def start(platform: Platform, base: str, dataset_version: str, recipe: training_pb2.TrainingRecipe) -> str:
    wanted = training_pb2.TrainingRecipe(
        base_model=base,
        data=[training_pb2.DataSource(dataset_version=dataset_version)],
        optimisation=training_pb2.Optimisation(epochs=6, batch_size=4, learning_rate=2e-2),
        precision=training_pb2.TrainingRecipe.PRECISION_FP32,
    )
    wanted.MergeFrom(recipe)
    job = training_pb2.TrainingJob(recipe=wanted)
    request = training_pb2.CreateTrainingJobRequest(parent=PARENT, training_job=job)
    name: str = platform.training.CreateTrainingJob(request).name
    return name


def deploy(platform: Platform, base: str, versions: dict[str, str]) -> None:
    routes = [inference_pb2.Route(id=one, model_version=version) for one, version in versions.items()]
    wanted = inference_pb2.Deployment(base_model=base, routes=routes, precision=inference_pb2.Deployment.PRECISION_FP32)
    request = inference_pb2.CreateDeploymentRequest(parent=PARENT, deployment_id="kinds", deployment=wanted)
    name = platform.deployments.CreateDeployment(request).name

    def ready() -> bool:
        seen = platform.deployments.GetDeployment(inference_pb2.GetDeploymentRequest(name=name))
        assert seen.state != inference_pb2.Deployment.STATE_FAILED, seen.failure
        return bool(seen.state == inference_pb2.Deployment.STATE_READY)

    eventually(ready, 120, f"{name} is ready")


def chat(platform: Platform, model: str, text: str, max_tokens: int) -> str:
    turn = common_pb2.Message(role=common_pb2.ROLE_USER, parts=[common_pb2.Part(text=text)])
    sampling = common_pb2.SamplingParams(temperature=0, max_tokens=max_tokens)
    request = inference_pb2.ChatRequest(model=model, messages=[turn], sampling=sampling)
    return "".join(part.text for part in platform.inference.Chat(request, timeout=60).message.parts)


@pytest.mark.timeout(300)
def test_versions_of_several_kinds_answer_as_they_were_trained(platform: Platform, base: str) -> None:
    data = platform.push("kinds", rows(48), train_fraction=0.85, validation_fraction=0.15)
    jobs = {name: start(platform, base, data.name, recipe) for name, recipe in RECIPES.items()}
    versions = {}
    for name, job_name in jobs.items():
        job = platform.wait_job(job_name)
        assert job.state == training_pb2.TrainingJob.STATE_SUCCEEDED, (name, job.failure)
        versions[name] = job.model_version
    deploy(platform, base, versions)

    for name in ("dora", "prompt"):
        version = platform.registry.GetModelVersion(registry_pb2.GetModelVersionRequest(name=versions[name]))
        for text, probe in zip(FIXED_PROMPTS, version.golden_probes, strict=False):
            said = inference_pb2.DetokenizeRequest(model=versions[name], ids=probe.token_ids, skip_special_tokens=True)
            expected = platform.inference.Detokenize(said).text
            assert chat(platform, versions[name], text, len(probe.token_ids)) == expected, (name, text)

    texts = [question(index) for index in range(100, 112)]
    asked = inference_pb2.ClassifyRequest(model=versions["head"], texts=texts, top=1)
    answer = platform.inference.Classify(asked, timeout=60)
    found = [one.scores[0].label for one in answer.classifications]
    right = sum(label == WORDS[index % 4] for index, label in enumerate(found, start=100))
    assert right >= 9, found
    assert answer.identity.model_version == versions["head"]
