"""What is said is remembered: by the caller's wish or a policy, through outages and kill -9, once and in full."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from feinschliff.inference.memory import memory_of
from feinschliff.inference.recorder import Kept
from feinschliff.inference.settings import InferenceSettings
from feinschliff.inference.spool import Spool
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Invalid, Unavailable
from feinschliff.kit.metrics import Metrics
from feinschliff.v1 import common_pb2, ingestion_pb2
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.site import PARENT, Site, chat_request, open_site, refusing, text_of
from tests.contract.ingestion.log_room import Log, open_log
from tests.support.waiting import eventually_async

BOUND = 1024 * 1024
WRITER = """
import asyncio, sys
from feinschliff.inference.memory import memory_of
from feinschliff.inference.recorder import Kept
from feinschliff.inference.settings import InferenceSettings
from feinschliff.kit import failpoints
from feinschliff.kit.metrics import Metrics
from feinschliff.v1 import common_pb2, ingestion_pb2

async def main():
    failpoints.configure(sys.argv[3])
    memory = memory_of(InferenceSettings(home=sys.argv[1], ingestion_address=sys.argv[2]), Metrics("inference"))
    delivering = asyncio.create_task(memory.delivery.run())
    turn = common_pb2.Message(role=common_pb2.ROLE_USER, parts=[common_pb2.Part(text="hello")])
    for number in range(100_000):
        kept = Kept("p", f"{sys.argv[4]}-{number}")
        print(await memory.recorder.store(kept, ingestion_pb2.Completion(model="m", messages=[turn])), flush=True)
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


class Ingestion:
    """The completion log at a port of its own; off until it is started, and started again with what it had."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self._database = Database(f"sqlite:///{folder / 'ingestion.db'}", "ingestion")
        self._database.upgrade()
        self._open = AsyncExitStack()

    async def start(self) -> Log:
        log = await self._open.enter_async_context(open_log(self._database, self.port))
        log.clock.at = datetime.now(UTC)
        return log

    async def stop(self) -> None:
        await self._open.aclose()

    async def close(self) -> None:
        await self.stop()
        self._database.close()


@pytest.fixture
async def ingestion(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Ingestion]:
    made = Ingestion(tmp_path, free_port())
    yield made
    await made.close()


@pytest.fixture
async def logged(tmp_path: Path, tiny_model: Path, ingestion: Ingestion) -> AsyncIterator[Site]:
    """A room whose log is at `ingestion`."""
    async with open_site(tmp_path, tiny_model, ingestion_address=ingestion.address) as site:
        site.settings["ingestion_address"] = ingestion.address
        yield site


async def said(site: Site, model: str = "", text: str = "hello", **fields: Any) -> pb.ChatResponse:
    request = chat_request(model or site.base, text)
    request.MergeFrom(pb.ChatRequest(**fields))
    answer: pb.ChatResponse = await refusing(site.chats.Chat(request, timeout=30))
    return answer


def record(id: str, text: str) -> ingestion_pb2.RecordCompletionRequest:
    turn = common_pb2.Message(role=common_pb2.ROLE_USER, parts=[common_pb2.Part(text=text)])
    completion = ingestion_pb2.Completion(model="m", messages=[turn])
    return ingestion_pb2.RecordCompletionRequest(
        parent="projects/p", completion_id=id, completion=completion, request_id=id
    )


async def said_in_time(site: Site, **fields: Any) -> pb.ChatResponse:
    """After a restart: once the base is loaded again."""

    async def answer() -> pb.ChatResponse | None:
        try:
            return await said(site, **fields)
        except Unavailable:
            return None

    found = await eventually_async(answer, 30, "the base to be loaded")
    assert found is not None
    return found


async def in_log(log: Log, count: int, project: str = "default") -> list[str]:
    async def there() -> list[str] | None:
        found = await log.ids(project=project)
        return found if len(found) >= count else None

    ids = await eventually_async(there, 30, f"{count} exchanges in the log")
    assert ids is not None
    return ids


async def test_an_exchange_is_stored_whole_under_the_name_that_its_answer_says(
    logged: Site, ingestion: Ingestion
) -> None:
    log = await ingestion.start()
    await logged.create()
    answer = await said(logged, store=True, metadata={"team": "a"}, user="customer-7")
    assert answer.completion.startswith(f"{PARENT}/completions/chatcmpl-")
    await in_log(log, 1)
    stored = await log.call("GetCompletion", name=answer.completion)
    asked = chat_request(logged.base)
    assert (stored.model, stored.deployment) == (logged.base, f"{PARENT}/deployments/d")
    assert (stored.messages, stored.sampling) == (asked.messages, asked.sampling)
    assert (stored.response, stored.identity, stored.usage) == (answer.message, answer.identity, answer.usage)
    assert (stored.finish_reason, dict(stored.metadata), stored.user) == (
        answer.finish_reason,
        {"team": "a"},
        "customer-7",
    )
    assert stored.latency_seconds > 0
    assert stored.request_id

    request = chat_request(logged.base, "stream")
    request.store, request.completion = True, "projects/theirs/completions/chatcmpl-mine"
    with pytest.raises(Invalid) as refused:
        await refusing(logged.chats.Chat(request, timeout=30))
    assert refused.value.reason == "PROJECT_MISMATCH"
    request.completion = f"{PARENT}/completions/chatcmpl-mine"
    events = [one async for one in logged.chats.ChatStream(pb.ChatStreamRequest(chat=request), timeout=30)]
    assert events[-1].end.completion == request.completion
    await in_log(log, 2)
    streamed = await log.call("GetCompletion", name=request.completion)
    assert text_of(pb.ChatResponse(message=streamed.response)) == "".join(one.delta.text for one in events)
    assert logged.metric("completions_delivered_total") == 2
    assert logged.metric("completion_spool_bytes") == 0


async def test_a_text_that_is_continued_is_kept_as_a_turn_and_its_answer(logged: Site, ingestion: Ingestion) -> None:
    log = await ingestion.start()
    await logged.create()
    request = pb.CompleteRequest(
        model=logged.base, text="once upon", echo=True, store=True, user="u", metadata={"team": "a"}
    )
    request.sampling.max_tokens = 4
    whole = await refusing(logged.chats.Complete(request, timeout=30))
    streaming = logged.chats.CompleteStream(pb.CompleteStreamRequest(complete=request), timeout=30)
    events = [one async for one in streaming]
    for name in (whole.completion, events[-1].end.completion):
        assert name.startswith(f"{PARENT}/completions/")
    await in_log(log, 2)
    stored = await log.call("GetCompletion", name=whole.completion)
    (asked,) = stored.messages
    assert (asked.role, asked.parts[0].text, stored.user) == (common_pb2.ROLE_USER, "once upon", "u")
    assert "once upon" + stored.response.parts[0].text == whole.choices[0].text
    assert (stored.usage, stored.identity, dict(stored.metadata)) == (whole.usage, whole.identity, {"team": "a"})
    streamed = await log.call("GetCompletion", name=events[-1].end.completion)
    text = "".join(one.delta.text for one in events)
    assert "once upon" + streamed.response.parts[0].text == text


async def test_who_decides_what_is_kept(logged: Site, ingestion: Ingestion) -> None:
    log = await ingestion.start()
    await logged.create()
    assert (await said(logged)).completion == ""
    assert (await said(logged, store=False)).completion == ""

    async def policy(stored_fraction: float, refuse_store: bool = False) -> pb.Deployment:
        logging = pb.Logging(stored_fraction=stored_fraction, refuse_store=refuse_store)
        deployment = pb.Deployment(name=f"{PARENT}/deployments/d", logging=logging)
        request = pb.UpdateDeploymentRequest(deployment=deployment, update_mask=FieldMask(paths=["logging"]))
        changed: pb.Deployment = await refusing(logged.deployments.UpdateDeployment(request))
        return changed

    assert (await policy(1.0)).logging == pb.Logging(stored_fraction=1.0)
    kept = await said(logged)
    assert kept.completion
    assert (await said(logged, store=False)).completion == ""
    await policy(1.0, refuse_store=True)
    assert (await said(logged)).completion == ""
    assert (await said(logged, store=True)).completion == ""
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(Invalid, match="stored_fraction"):
            await policy(wrong)
    await policy(0.0)
    name = f"{PARENT}/completionPolicy"
    await log.call(
        "UpdateCompletionPolicy",
        completion_policy={"name": name, "sampled_fraction": 1.0},
        update_mask={"paths": ["sampled_fraction"]},
    )

    async def by_policy() -> bool:
        return bool((await said_in_time(logged)).completion)

    assert await in_log(log, 1) == [kept.completion.rsplit("/", 1)[1]]
    await logged.stop()  # what it believes of the project's policy is half a minute old at most; a new one asks at once
    await logged.start()
    await eventually_async(by_policy, 30, "the project's policy to be known")


async def test_what_guards_took_out_is_not_remembered(logged: Site, ingestion: Ingestion) -> None:
    log = await ingestion.start()
    kinds = pb.PersonalDataGuard(kinds=["email"])
    guard = pb.Guard(name="g", personal_data=kinds, action=pb.Guard.ACTION_MASK, stage=pb.Guard.STAGE_INPUT)
    await logged.create(guards=[guard])
    answer = await said(logged, text="write to anna@example.org please", store=True)
    await in_log(log, 1)
    stored = await log.call("GetCompletion", name=answer.completion)
    assert [part.text for part in stored.messages[0].parts] == ["write to [EMAIL] please"]


async def test_what_the_log_could_not_take_is_refused_before_it_is_answered(logged: Site) -> None:
    await logged.create()
    for wrong, field in (
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"user": "u" * 65}, "user"),
        ({"completion": "chatcmpl-1"}, "completion"),
    ):
        with pytest.raises(Invalid) as caught:
            await said(logged, **wrong)
        assert caught.value.fields[0].field == field


async def test_answers_go_on_without_ingestion_and_nothing_is_lost_or_doubled(
    logged: Site, ingestion: Ingestion
) -> None:
    await logged.create()
    names = []
    for _ in range(5):
        began = time.monotonic()
        names.append((await said(logged, store=True)).completion)
        assert time.monotonic() - began < 5
    await logged.stop()
    await logged.start()  # what was not delivered is found again
    names.append((await said_in_time(logged, store=True)).completion)
    log = await ingestion.start()
    assert sorted(await in_log(log, 6)) == sorted(name.rsplit("/", 1)[1] for name in names)
    await ingestion.stop()
    names.append((await said(logged, store=True)).completion)
    log = await ingestion.start()
    assert len(await in_log(log, 7)) == 7

    async def empty() -> bool:
        return logged.metric("completion_spool_bytes") == 0

    await eventually_async(empty, 20, "the spool to be empty")


async def test_a_full_spool_never_fails_an_answer(tmp_path: Path, tiny_model: Path, ingestion: Ingestion) -> None:
    folder = tmp_path / "home" / "spool" / "completions"
    before = Spool(folder, bytes_max=2 * BOUND, changed=lambda: None)
    await asyncio.wrap_future(before.append(record("left", "x" * (BOUND - 300)).SerializeToString()))
    before.close()
    settings = {"ingestion_address": ingestion.address, "inference_spool_bytes_max": BOUND}
    async with open_site(tmp_path, tiny_model, **settings) as site:
        await site.create()

        async def found() -> bool:
            return site.metric("completion_spool_bytes") > 0

        await eventually_async(found, 30, "what an earlier process left to be found")
        answer = await said(site, store=True, metadata={"k": "x" * 500})
        assert (bool(text_of(answer)), answer.completion) == (True, "")
        assert site.metric("completions_dropped_total", reason="full") == 1
        assert site.metric("completions_spooled_total") == 0


async def test_kill_9_of_the_writer_loses_and_doubles_nothing(tmp_path: Path, ingestion: Ingestion) -> None:
    """Killed between two batches that it delivers; the next one at some moment; the third finds all that is left."""
    log = await ingestion.start()
    named: set[str] = set()
    for failpoint, prefix in (("completion.before_store=kill@3", "a"), ("", "b")):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "home"), ingestion.address, failpoint, prefix]
        writer = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        lines = 0
        while line := await asyncio.wait_for(writer.stdout.readline(), 60):
            named.add(line.decode().strip())
            lines += 1
            if not failpoint and lines == 50:
                writer.send_signal(signal.SIGKILL)
        assert await writer.wait() == -signal.SIGKILL
    settings = InferenceSettings(home=tmp_path / "home", ingestion_address=ingestion.address)
    memory = await asyncio.to_thread(memory_of, settings, Metrics("inference"))
    await asyncio.to_thread(memory.delivery.flush, 60)
    await asyncio.to_thread(memory.close)
    assert memory.spool.size_bytes == 0
    found = [f"projects/p/completions/{one}" for one in await log.ids()]
    assert len(found) == len(set(found))
    assert named <= set(found)
    assert len(found) <= len(named) + 2  # one that each was about to tell of


@pytest.mark.parametrize("batch", [1, 16])
async def test_one_exchange_that_ingestion_fails_on_does_not_hold_up_the_others(
    tmp_path: Path, ingestion: Ingestion, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    log = await ingestion.start()
    stored = log.completions.record

    def failing(project: str, completion: str, *args: Any, **fields: Any) -> Any:
        if completion == "poison":
            raise RuntimeError("a fault in ingestion")
        return stored(project, completion, *args, **fields)

    monkeypatch.setattr(log.completions, "record", failing)
    metrics = Metrics("inference")
    settings = InferenceSettings(
        home=tmp_path / "home", ingestion_address=ingestion.address, inference_spool_batch=batch
    )
    memory = await asyncio.to_thread(memory_of, settings, metrics)
    for id in ("one", "poison", "two", "big"):
        sent = record(id, "x" * 30_000 if id == "big" else "x")
        assert await memory.recorder.store(Kept("p", id), sent.completion) == f"projects/p/completions/{id}"
    delivering = asyncio.create_task(memory.delivery.run())
    assert sorted(await in_log(log, 2, "p")) == ["one", "two"]

    async def refused() -> bool:
        return metrics.value("feinschliff_inference_completions_dropped_total", reason="refused") == 1

    await eventually_async(refused, 20, "what is too large to be refused")
    monkeypatch.undo()
    assert sorted(await in_log(log, 3, "p")) == ["one", "poison", "two"]
    delivering.cancel()
    await asyncio.to_thread(memory.close)
