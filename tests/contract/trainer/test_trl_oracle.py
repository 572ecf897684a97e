"""TRL's own trainer on the same rows: the same tokens, the same loss, and step by step the same training."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from feinschliff.formats.adaptations import Lora
from feinschliff.formats.objectives import Sft
from feinschliff.formats.records import Message, Record
from feinschliff.lm.adaptations import ADAPTATIONS
from feinschliff.lm.chat import Chat, Encoded
from feinschliff.lm.load import load_model, load_tokenizer
from feinschliff.lm.rows_attention import rows_apart
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.method import METHODS
from tests.support.trainer import JOB, Workshop, rows

TOLERANCE = 1e-4
STEPS = 5

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Attempts set threads and kernels of the whole process."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    disable_progress_bar()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def conversations() -> list[Record]:
    """Several turns, a turn of weight 0, and answers of different lengths."""

    def turn(role: str, content: str, weight: int | None = None) -> Message:
        return Message(role=role, content=content, weight=weight)  # type: ignore[arg-type]

    first = [
        turn("user", "hello"),
        turn("assistant", "thanks"),
        turn("user", "help"),
        turn("assistant", "order refund"),
    ]
    second = [
        turn("user", "invoice please"),
        turn("assistant", "no", 0),
        turn("user", "Rechnung"),
        turn("assistant", "ich"),
    ]
    return [Record(messages=first), Record(messages=second), *rows(3)]


def encoded(base: Path, records: Sequence[Record], loss_on: Any = "all_assistant_turns") -> list[Encoded]:
    return Chat.of(load_tokenizer(base)).encode(records, loss_on=loss_on)


def with_labels(batch: Sequence[Encoded]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "input_ids": row.token_ids,
                "labels": [token if told else -100 for token, told in zip(row.token_ids, row.is_answer, strict=True)],
            }
            for row in batch
        ]
    )


def trl_trainer(base: Path, folder: Path, model: nn.Module, data: Dataset, **settings: Any) -> SFTTrainer:
    given: Mapping[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        **settings,
    }
    tokenizer = AutoTokenizer.from_pretrained(base)
    return SFTTrainer(model=model, processing_class=tokenizer, train_dataset=data, args=SFTConfig(**given))  # type: ignore[arg-type]


@pytest.mark.parametrize("loss_on", ["all_assistant_turns", "last_assistant_turn"])
def test_loss_and_gradients_are_those_of_trl(tmp_path: Path, tiny_model: Path, loss_on: str) -> None:
    batch = encoded(tiny_model, conversations(), loss_on)
    adapt, method = ADAPTATIONS["full"], METHODS["sft"]
    ours = load_model(tiny_model, precision="fp32").requires_grad_(True)
    with rows_apart(ours):
        terms = method.loss(Learner(adapt, ours), method.collate(batch), Sft(loss_on=loss_on))  # type: ignore[arg-type]
        mean = terms.losses_N.mean()
        mean.backward()  # type: ignore[no-untyped-call]

    theirs = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    trainer = trl_trainer(tiny_model, tmp_path, theirs, with_labels(batch), per_device_train_batch_size=len(batch))
    loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    loss.backward()

    assert float(mean.detach()) == pytest.approx(float(loss.detach()), abs=TOLERANCE)
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-3, atol=1e-5, msg=name)


def test_training_goes_step_by_step_as_that_of_trl(tmp_path: Path, tiny_model: Path) -> None:
    records = rows(4 * STEPS)
    one = Workshop(tmp_path / "job", tiny_model, train=records)
    one.recipe = {
        "optimisation": {
            "epochs": 1,
            "batch_size": 4,
            "learning_rate": 5e-3,
            "warmup_fraction": 0.0,
            "schedule": "constant",
            "order": "as_given",
        }
    }
    one.run()
    text = one.store.get_bytes(f"{JOB}/result/metrics.csv").decode()
    ours = [float(line["train_loss"]) for line in csv.DictReader(io.StringIO(text))]

    adapted = ADAPTATIONS["lora"].attach(load_model(tiny_model, precision="fp32"), Lora(), seed=0)
    data = with_labels(encoded(tiny_model, records))
    trainer = trl_trainer(
        tiny_model,
        tmp_path / "trl",
        adapted,
        data,
        per_device_train_batch_size=4,
        max_steps=STEPS,
        learning_rate=5e-3,
    )
    trainer.train()
    theirs = [line["loss"] for line in trainer.state.log_history if "loss" in line]

    assert ours[-1] < ours[0] - 0.3
    assert ours == pytest.approx(theirs, abs=TOLERANCE)


def test_an_answer_has_the_tokens_that_trl_would_learn(tmp_path: Path, tiny_model: Path) -> None:
    records = rows(6)
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": turn.role, "content": turn.content} for turn in record.messages[:-1]],
                "completion": [{"role": "assistant", "content": record.messages[-1].content}],
            }
            for record in records
        ]
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    theirs = trl_trainer(tiny_model, tmp_path, model, data).train_dataset

    for row, other in zip(encoded(tiny_model, records), theirs, strict=True):
        # Theirs goes on behind the end of the turn with the template's newline, which is never sampled.
        ids, labels = other["input_ids"][: len(row.token_ids)], other["labels"][: len(row.token_ids)]
        assert ids == row.token_ids
        assert [label != -100 for label in labels] == row.is_answer
        assert len(other["input_ids"]) - len(row.token_ids) <= 1
