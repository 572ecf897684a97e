"""Every kind of version says in serving what its model said in training, alone and beside the others."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.inference.engine import Engine, Finish, GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.inference.engines.decks import Decks
from feinschliff.inference.engines.row import Row
from feinschliff.inference.versions import ADAPTATIONS as SERVED
from feinschliff.kit.errors import Unserved, WrongState
from feinschliff.lm.adaptations import ADAPTATIONS as TRAINED
from feinschliff.lm.load import load_model
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.generating import texts
from tests.contract.inference.kinds import KINDS, Made
from tests.contract.inference.site import PARENT, Site, chat_request, text_of

TOKENS = 10
PART = 16  # a prompt is read in parts of this many tokens


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    folder = tmp_path_factory.mktemp("kinds")
    return {name: Made(tiny_model, folder / name, name, seed=seed) for seed, name in enumerate(KINDS)}


@pytest.fixture(scope="module", params=["transformers"])
def engine(
    request: pytest.FixtureRequest, tiny_model: Path, made: dict[str, Made], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """Every engine, in fp32, with a version of every kind loaded under its name."""
    base = BaseFiles(f"file:{tiny_model}", "sha256:tiny", "folder", tiny_model)
    options = EngineOptions(tmp_path_factory.mktemp("cache"), rows_max=40, queue_max=100, prefill_tokens_per_step=PART)
    loaded = ENGINES[request.param](base, "fp32", options)
    for name, one in made.items():
        loaded.load_adapter(name, one.folder)
    yield loaded
    loaded.close()


def prompt(seed: int, length: int = 0) -> list[int]:
    chosen = random.Random(seed)
    return [chosen.randrange(3, 400) for _ in range(length or chosen.randrange(1, 60))]


def requests(name: str) -> list[GenerationRequest]:
    return [GenerationRequest(prompt(seed, length), name, TOKENS) for seed, length in ((7, 1), (8, 20), (9, 45))]


def test_whatever_can_be_trained_can_be_served() -> None:
    assert set(SERVED) == set(TRAINED) == {settings.kind for settings in KINDS.values()}


@pytest.mark.parametrize("name", KINDS)
def test_a_version_says_what_its_model_said_in_training(engine: Engine, made: dict[str, Made], name: str) -> None:
    expected = [engine.decode(made[name].answer(list(one.prompt_ids), TOKENS)) for one in requests(name)]
    assert texts(engine, requests(name)) == expected


@pytest.mark.parametrize("name", KINDS)
def test_logits_equal_those_of_training(tiny_model: Path, made: dict[str, Made], name: str) -> None:
    decks = Decks(load_model(tiny_model, precision="fp32"), context_tokens=512)
    decks.prepare(name, made[name].folder)()
    ids = prompt(3, 30)
    plain, adapted = logits(decks, "", ids), logits(decks, name, ids)
    expected = made[name].logits(ids)[-1]
    assert torch.allclose(adapted, expected, atol=1e-4, rtol=1e-4), float((adapted - expected).abs().max())
    assert float((adapted - plain).abs().max()) > 1e-2, "the version changes what is said"


@torch.inference_mode()
def logits(decks: Decks, name: str, ids: list[int]) -> Tensor:
    """After the last of `ids`, read in two parts."""
    request = GenerationRequest(ids, name)
    row = Row.of(request, lambda event: None, decode=str, stop_ids=())
    deck = decks.of(row)
    deck.read(row, 0, PART)
    return deck.read(row, PART, len(ids))


def test_versions_of_all_kinds_in_one_batch_get_what_each_gets_alone(engine: Engine) -> None:
    every = [one for name in ("", *KINDS) for one in requests(name)]
    random.Random(1).shuffle(every)
    together = texts(engine, every)
    assert together == [texts(engine, [one])[0] for one in every]
    last = [text for one, text in zip(every, together, strict=True) if len(one.prompt_ids) == 45]
    assert len(set(last)) > len(KINDS) * 0.8


def test_kinds_come_and_go_while_others_answer(engine: Engine, made: dict[str, Made]) -> None:
    before = texts(engine, requests("dora"))
    for name in ("full", "prefix", "qlora-nf4", "ia3", "bottleneck"):
        engine.unload_adapter(name)
        assert name not in engine.adapters()
        assert texts(engine, requests("dora")) == before
        engine.load_adapter(name, made[name].folder)
    assert engine.adapters() == set(KINDS)
    for name in ("full", "prefix", "qlora-nf4", "ia3", "bottleneck"):
        expected = [engine.decode(made[name].answer(list(one.prompt_ids), TOKENS)) for one in requests(name)]
        assert texts(engine, requests(name)) == expected


def test_weights_that_were_not_trained_are_the_base_s_own_memory(tiny_model: Path, made: dict[str, Made]) -> None:
    decks = Decks(load_model(tiny_model, precision="fp32"), context_tokens=512)
    for name in ("last_layers", "full", "qlora-nf4", "qlora-int8", "lora"):
        decks.prepare(name, made[name].folder)()

    def of_its_own(name: str) -> set[str]:
        base = {weight.data_ptr() for weight in decks.holding("").model.parameters()}
        named = decks.holding(name).model.named_parameters(remove_duplicate=False)
        return {one for one, weight in named if weight.data_ptr() not in base}

    every = {one for one, _ in decks.holding("").model.named_parameters(remove_duplicate=False)}
    assert of_its_own("lora") == set()
    upper = {one for one in every if ".layers.1." in one}
    assert of_its_own("last_layers") == upper | {"model.norm.weight", "lm_head.weight"}
    assert of_its_own("full") == every - {"model.embed_tokens.weight", "lm_head.weight"}
    assert of_its_own("qlora-nf4") == {one for one in every if "_proj." in one} == of_its_own("qlora-int8")


def test_versions_on_the_same_rounded_base_share_it(tiny_model: Path, made: dict[str, Made]) -> None:
    decks = Decks(load_model(tiny_model, precision="fp32"), context_tokens=512)
    for name in ("one", "two"):
        decks.prepare(name, made["qlora-nf4"].folder)()
    decks.prepare("three", made["qlora-double"].folder)()
    assert decks.holding("one") is decks.holding("two")
    assert decks.holding("three") is not decks.holding("one")
    waiting = decks.prepare("four", made["qlora-nf4"].folder)
    decks.remove("one")
    decks.remove("two")
    waiting()
    assert torch.equal(logits(decks, "four", prompt(3, 30)), logits(decks, "four", prompt(3, 30)))
    assert set(decks) == {decks.holding(one) for one in ("", "three", "four")}


@torch.inference_mode()
def test_rows_that_left_some_weights_make_room_for_rows_on_others(tiny_model: Path, made: dict[str, Made]) -> None:
    decks = Decks(load_model(tiny_model, precision="fp32"), context_tokens=512)
    decks.prepare("full", made["full"].folder)()
    stays, *leave = [joined(decks, "", 400 if seed else 20, seed) for seed in range(6)]
    bytes_max = decks.allocated_bytes
    comes = joined(decks, "full", 20, 7)
    for row in leave:
        row.finish(Finish.CANCELLED)
    for deck in decks:
        deck.drop_done()
    assert decks.allocated_bytes > bytes_max
    decks.keep_within(bytes_max)
    assert decks.allocated_bytes < bytes_max / 3
    for row in (stays, comes):
        ids, said = [*row.request.prompt_ids, row.last_token], decks.of(row).decode()[0]
        assert torch.allclose(said, logits(decks, row.request.adapter_digest, ids), atol=1e-4)


def joined(decks: Decks, name: str, length: int, seed: int) -> Row:
    """A row whose prompt was read, among those that decode."""
    row = Row.of(GenerationRequest(prompt(seed, length), name), lambda event: None, decode=str, stop_ids=())
    row.last_token = int(decks.of(row).read(row, 0, length).argmax())
    decks.of(row).join(row)
    return row


@torch.inference_mode()
def test_a_selection_that_failed_is_none(tiny_model: Path, made: dict[str, Made]) -> None:
    decks = Decks(load_model(tiny_model, precision="fp32"), context_tokens=512)
    for name in ("lora", "dora"):
        decks.prepare(name, made[name].folder)()
    expected = logits(decks, "dora", prompt(3, 30))
    logits(decks, "lora", prompt(3, 30))
    with pytest.raises(KeyError):
        decks.holding("").last_states([[1]], "late")
    decks.prepare("late", made["dora"].folder)()
    assert torch.equal(logits(decks, "late", prompt(3, 30)), expected)


@pytest.mark.parametrize("name", ["prompt", "p_tuning", "prefix", "prefix-network"])
def test_virtual_tokens_take_their_part_of_the_context(
    engine: Engine, tiny_model: Path, made: dict[str, Made], name: str
) -> None:
    tokens = KINDS[name].virtual_tokens
    assert engine.virtual_tokens(name) == tokens
    assert engine.virtual_tokens("lora") == engine.virtual_tokens("") == 0
    decks = Decks(load_model(tiny_model, precision="fp32"), context_tokens=tokens + 1)
    with pytest.raises(WrongState) as refused:
        decks.prepare(name, made[name].folder)()
    assert refused.value.reason == "ADAPTER_UNFIT"


FILES = {
    "dora": "adapter_model.safetensors",
    "ia3": "adapter_model.safetensors",
    "bottleneck": "bottleneck.safetensors",
    "prompt": "adapter_model.safetensors",
    "prefix": "adapter_model.safetensors",
    "last_layers": "trained.safetensors",
    "full": "model.safetensors",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "reasons"),
    [
        ("not finite", {"ADAPTER_CORRUPT"}),
        ("narrower", {"ADAPTER_UNFIT"}),
        ("unknown", {"ADAPTER_UNSUPPORTED", "ADAPTER_UNFIT", "ADAPTER_CORRUPT"}),
    ],
)
def test_damaged_versions_are_refused(
    engine: Engine, made: dict[str, Made], tmp_path: Path, name: str, damage: str, reasons: set[str]
) -> None:
    folder = tmp_path / name
    shutil.copytree(made[name].folder, folder)
    tensors = load_file(folder / FILES[name])
    key = sorted(tensors)[0]
    if damage == "not finite":
        tensors[key].view(-1)[0] = float("nan")
    elif damage == "narrower":
        tensors[key] = tensors[key][..., :-1].contiguous() if tensors[key].shape[-1] > 1 else tensors[key][:-1]
    else:
        tensors["something.else"] = torch.zeros(2)
    save_file(tensors, folder / FILES[name], metadata={"format": "pt"})
    with pytest.raises(WrongState) as refused:
        engine.load_adapter("damaged", folder)
    assert refused.value.reason in reasons
    assert "damaged" not in engine.adapters()


def test_a_whole_model_that_lacks_weights_is_refused(engine: Engine, made: dict[str, Made], tmp_path: Path) -> None:
    shutil.copytree(made["full"].folder, tmp_path / "half")
    tensors = load_file(tmp_path / "half" / FILES["full"])
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "half" / FILES["full"], metadata={"format": "pt"})
    with pytest.raises(WrongState) as refused:
        engine.load_adapter("half", tmp_path / "half")
    assert refused.value.reason == "ADAPTER_CORRUPT"


def test_a_whole_model_from_elsewhere_is_served_beside_its_base(
    engine: Engine, made: dict[str, Made], tmp_path: Path
) -> None:
    shutil.copytree(made["full"].folder, tmp_path / "import")
    (tmp_path / "import" / "adaptation.json").unlink()
    engine.load_adapter("import", tmp_path / "import")
    expected = texts(engine, requests("full"))
    assert texts(engine, [GenerationRequest(one.prompt_ids, "import", TOKENS) for one in requests("full")]) == expected
    engine.unload_adapter("import")


async def test_versions_of_different_kinds_answer_from_one_deployment(site: Site, made: dict[str, Made]) -> None:
    names = ("dora", "prompt", "last_layers", "full")
    versions = {name: site.register(made[name].folder, model=name) for name in names}
    for name, version in versions.items():
        getattr(site.registry.versions[version].recipe, KINDS[name].kind).SetInParent()
    await site.create(routes={name.replace("_", "-"): version for name, version in versions.items()})
    answers = {name: await site.chat(version) for name, version in versions.items()}
    turns = chat_request(site.base).messages
    conversation = pb.Conversation(messages=turns, add_generation_prompt=True)
    asked = (await site.chats.Tokenize(pb.TokenizeRequest(model=versions["dora"], conversation=conversation))).ids
    for name, answer in answers.items():
        said = pb.DetokenizeRequest(
            model=versions[name], ids=made[name].answer(list(asked), 8), skip_special_tokens=True
        )
        assert text_of(answer) == (await site.chats.Detokenize(said)).text, name
        assert answer.identity.adapter_digest == site.digest_of(versions[name])

    listed = await site.deployments.ListServableModels(pb.ListServableModelsRequest(parent=PARENT))
    context = {one.model: one.context_tokens for one in listed.models}
    assert context[versions["dora"]] - context[versions["prompt"]] == 7
    fits = context[versions["prompt"]] - answers["prompt"].usage.prompt_tokens
    refusal = await site.refused(versions["prompt"], max_tokens=fits + 1)
    assert refusal.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert (await site.chat(versions["prompt"], max_tokens=fits)).usage.completion_tokens >= 1


async def test_a_version_trained_in_a_way_that_no_engine_computes_is_refused_at_once(
    site: Site, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feinschliff.inference.versions.ADAPTATIONS", ("lora",))
    version = site.register(adapters["one"])
    site.registry.versions[version].recipe.dora.SetInParent()

    with pytest.raises(Unserved, match="`dora`") as refused:
        await site.create(routes={"a": version}, wait=False)

    assert refused.value.reason == "ADAPTATION_UNSERVED"
    assert refused.value.metadata["adaptation"] == "dora"
