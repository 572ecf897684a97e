"""The unmodified `openai` package does its whole fine-tuning flow here: upload, job, events, chat, stream."""

from __future__ import annotations

import io

import openai
import pytest

from tests.e2e.test_flywheel import chat_rows
from tests.support.platform import Platform
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def client(platform: Platform) -> openai.OpenAI:
    return openai.OpenAI(base_url=platform.gateway_url, api_key="any", timeout=120)


def upload(client: openai.OpenAI, content: bytes, name: str = "train.jsonl") -> str:
    return client.files.create(file=(name, io.BytesIO(content)), purpose="fine-tune").id


def check_texts(client: openai.OpenAI, model: str) -> None:
    """They are continued, scored, and turned into vectors."""
    asked = {"model": model, "temperature": 0, "max_tokens": 6, "logprobs": 2, "echo": True}
    texts = ["please help", "where is my order"]
    whole = client.completions.create(prompt=texts, **asked)  # type: ignore[call-overload]
    assert [choice.text.startswith(text) for choice, text in zip(whole.choices, texts, strict=True)] == [True] * 2
    for choice in whole.choices:
        likely = choice.logprobs
        assert likely.token_logprobs[0] is None
        assert all(number <= 0 for number in likely.token_logprobs[1:])
        assert "".join(likely.tokens[:2]) == choice.text[: likely.text_offset[2]]
    chunks = list(client.completions.create(prompt=texts, stream=True, **asked))  # type: ignore[call-overload]
    for place, choice in enumerate(whole.choices):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == place]
        assert "".join(one.text for one in mine) == choice.text
        assert [token for one in mine for token in one.logprobs.tokens] == choice.logprobs.tokens

    vectors = client.embeddings.create(model=model, input=texts).data
    again = client.embeddings.create(model=model, input=texts[1], encoding_format="float").data
    assert sum(number**2 for number in vectors[0].embedding) == pytest.approx(1, abs=1e-5)
    assert vectors[1].embedding == pytest.approx(again[0].embedding, abs=1e-5)
    assert vectors[0].embedding != pytest.approx(vectors[1].embedding, abs=1e-2)


@pytest.mark.timeout(300)
def test_the_fine_tuning_flow_works_unchanged(client: openai.OpenAI, base: str) -> None:
    content = chat_rows(40)
    file = upload(client, content)
    assert client.files.content(file).read() == content

    job = client.fine_tuning.jobs.create(
        model=base, training_file=file, suffix="routing", seed=3, hyperparameters={"n_epochs": 2, "batch_size": 8}
    )
    assert job.id.startswith("ftjob-")
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status in ("succeeded", "failed"), 150, "job ended")
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded", done.error
    assert done.trained_tokens
    assert done.fine_tuned_model is not None
    assert done.fine_tuned_model.startswith("ft:")
    assert ":routing:" in done.fine_tuned_model

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=5))
    assert len({event.id for event in events}) == len(events)
    losses = [event.data["train_loss"] for event in events if event.type == "metrics" and "train_loss" in event.data]
    assert len(losses) == 10
    assert any(done.fine_tuned_model in event.message for event in events)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert checkpoints
    assert done.fine_tuned_model in {model.id for model in client.models.list()}

    messages = [{"role": "user", "content": "hello help with my order 9"}]
    answer = client.chat.completions.create(
        model=done.fine_tuned_model,
        messages=messages,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=6,
    )
    assert answer.model == done.fine_tuned_model
    assert answer.usage is not None
    stream = client.chat.completions.create(
        model=done.fine_tuned_model,
        messages=messages,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
        store=True,
        metadata={"task": "routing"},
    )
    chunks = list(stream)
    assert_remembered(client, done.fine_tuned_model, chunks[0].id)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage == answer.usage
    check_texts(client, done.fine_tuned_model)


def assert_remembered(client: openai.OpenAI, model: str, completion_id: str) -> None:
    """The answer is in the log a moment after it was given, and only the one that was to be."""

    def stored() -> list[str]:
        return [one.id for one in client.chat.completions.list(metadata={"task": "routing"}, model=model)]

    eventually(lambda: stored() == [completion_id], 60, "the answer in the log")
    kept = client.chat.completions.retrieve(completion_id)
    assert (kept.model, bool(kept.choices[0].message.content)) == (model, True)
    asked = client.chat.completions.messages.list(completion_id).data
    assert [one.content for one in asked] == ["hello help with my order 9"]
    client.chat.completions.delete(completion_id)
    assert stored() == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no row"),
        (b'{"messages": [\n', "line 1"),
        (chat_rows(12) + b'{"messages": [{"role": "user", "content": "hi"}]}\n', "line 13"),
        (chat_rows(3), "10"),
        (bytes(range(256)) * 8, "text"),
    ],
    ids=["empty", "broken", "no-assistant", "too-few", "binary"],
)
def test_a_bad_file_is_refused_in_the_envelope(client: openai.OpenAI, content: bytes, words: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        upload(client, content)
    body = refused.value.body
    assert isinstance(body, dict)
    assert set(body) == {"message", "type", "param", "code"}
    assert words in body["message"].lower()


def test_a_bad_job_is_refused_by_its_parameter(client: openai.OpenAI, base: str) -> None:
    file = upload(client, chat_rows(20))
    with pytest.raises(openai.BadRequestError) as unknown:
        client.fine_tuning.jobs.create(model="gpt-9", training_file=file)
    assert unknown.value.param == "model"
    with pytest.raises(openai.BadRequestError) as negative:
        client.fine_tuning.jobs.create(model=base, training_file=file, hyperparameters={"learning_rate_multiplier": -1})
    assert negative.value.param is not None
    assert "learning_rate_multiplier" in negative.value.param
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
