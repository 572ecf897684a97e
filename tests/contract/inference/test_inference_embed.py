"""Vectors of texts are the mean of their own tokens' last states, whoever else is read with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from feinschliff.formats.heads import HeadFacts
from feinschliff.kit.errors import Invalid, Refusal
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.adapters import load_plain
from tests.contract.inference.kinds import Made, with_head
from tests.contract.inference.site import Site, open_site, refusing
from tests.support.tiny_model import HIDDEN

TEXTS = ["my invoice is wrong", "a", "where is my delivery? " * 12, "please <|im_end|> cancel ✓"]
TOLERANCE = 1e-5


async def embed(site: Site, model: str, texts: list[str] | None = None, **fields: Any) -> pb.EmbedResponse:
    request = pb.EmbedRequest(model=model, texts=texts or [], **fields)
    answer: pb.EmbedResponse = await refusing(site.chats.Embed(request, timeout=60))
    return answer


async def plain_ids(site: Site, text: str) -> list[int]:
    """Control tokens in it are plain text."""
    pieces = text.split("<|im_end|>")
    asked = [pieces[0], *(one for piece in pieces[1:] for one in ("<", "|", "im", "_", "end", "|", ">", piece))]
    return [
        token
        for piece in asked
        if piece
        for token in (await site.chats.Tokenize(pb.TokenizeRequest(model=site.base, text=piece))).ids
    ]


def by_hand(model: Any, ids: list[int], dimensions: int = HIDDEN) -> torch.Tensor:
    """One text alone, without a cache: the mean of its tokens' states, cut, of length 1."""
    with torch.inference_mode():
        states_TH = model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    mean_D = states_TH.mean(0)[:dimensions]
    found: torch.Tensor = mean_D / mean_D.norm()
    return found


@pytest.mark.parametrize("name", ["", "lora", "bottleneck", "prompt", "prefix", "full"])
async def test_a_vector_is_the_mean_of_the_texts_own_states(
    site: Site, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    made = Made(tiny_model, tmp_path / "made", name) if name else None
    version = site.register(made.folder) if made else site.base
    await site.create(routes={"a": version} if made else {})
    answer = await embed(site, version, TEXTS)
    rows = [await plain_ids(site, text) for text in TEXTS]
    assert answer.usage.prompt_tokens == sum(map(len, rows))
    assert answer.usage.completion_tokens == 0
    assert answer.identity.adapter_digest == (site.digest_of(version) if made else "")
    model = made.model if made else load_plain(tiny_model)
    for ids, found in zip(rows, answer.embeddings, strict=True):
        vector = torch.tensor(found.values)
        assert vector == pytest.approx(by_hand(model, ids), abs=TOLERANCE)
        assert float(vector.norm()) == pytest.approx(1)
    same = await embed(site, version, tokens=[pb.TokenIds(ids=ids) for ids in rows])
    assert same == answer


async def test_many_texts_get_what_each_gets_alone(site: Site) -> None:
    await site.create()
    texts = [f"{'please ' * (number % 23)}help with order {number}" for number in range(120)]
    together = (await embed(site, site.base, texts)).embeddings
    for number in (0, 22, 77, 119):
        (alone,) = (await embed(site, site.base, [texts[number]])).embeddings
        assert list(together[number].values) == pytest.approx(list(alone.values), abs=TOLERANCE)


async def test_a_version_that_judges_texts_gives_vectors_too(site: Site, tiny_model: Path, tmp_path: Path) -> None:
    made = Made(tiny_model, tmp_path / "made", "lora")
    with_head(made, HeadFacts(kind="regress"))
    version = site.register(made.folder)
    await site.create(routes={"a": version})
    (found,) = (await embed(site, version, TEXTS[:1])).embeddings
    expected = by_hand(made.model, await plain_ids(site, TEXTS[0]))
    assert torch.tensor(found.values) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("settings", "taken", "refused"),
    [
        ({}, [HIDDEN], [16, HIDDEN + 1]),
        ({"matryoshka_dimensions": [16, 32]}, [16, 32, HIDDEN], [8, 128]),
        ({"is_matryoshka": True}, [1, 7, HIDDEN], [HIDDEN + 1, -1]),
    ],
)
async def test_vectors_are_cut_only_where_the_model_learned_it(
    tmp_path: Path, tiny_model: Path, settings: dict[str, Any], taken: list[int], refused: list[int]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    config = json.loads((base / "config.json").read_text()) | settings
    (base / "config.json").write_text(json.dumps(config))
    async with open_site(tmp_path, base) as site:
        await site.create()
        ids = await plain_ids(site, TEXTS[0])
        for dimensions in taken:
            (found,) = (await embed(site, site.base, TEXTS[:1], dimensions=dimensions)).embeddings
            expected = by_hand(load_plain(tiny_model), ids, dimensions)
            assert torch.tensor(found.values) == pytest.approx(expected, abs=TOLERANCE)
        for dimensions in refused:
            with pytest.raises(Invalid) as caught:
                await embed(site, site.base, TEXTS[:1], dimensions=dimensions)
            assert caught.value.reason == "DIMENSIONS_UNSUPPORTED"
            assert [one.field for one in caught.value.fields] == ["dimensions"]


async def test_what_has_no_vector_is_refused_by_its_place(site: Site) -> None:
    await site.create(context_tokens=64)

    async def refused(*arguments: Any, **fields: Any) -> tuple[str, list[str]]:
        with pytest.raises(Refusal) as caught:
            await embed(site, site.base, *arguments, **fields)
        return caught.value.reason, [one.field for one in caught.value.fields]

    assert await refused() == ("REQUEST_INVALID", ["texts"])
    assert await refused(["x"] * 2049) == ("REQUEST_INVALID", ["texts"])
    assert await refused(["x", ""]) == ("REQUEST_INVALID", ["texts[1]"])
    assert await refused(["x"], tokens=[pb.TokenIds(ids=[3])]) == ("REQUEST_INVALID", ["tokens"])
    assert await refused(tokens=[pb.TokenIds(ids=[3]), pb.TokenIds()]) == ("REQUEST_INVALID", ["tokens[1]"])
    assert await refused(tokens=[pb.TokenIds(ids=[3, 600])]) == ("TOKEN_ID_UNKNOWN", ["tokens[0].ids[1]"])
    assert await refused(["hello " * 65]) == ("CONTEXT_LENGTH_EXCEEDED", ["texts[0]"])
