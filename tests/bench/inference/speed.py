"""Speed and memory of serving: our service and its peers side by side, taking turns.

Prints one JSON object a line, then one for each goal. SmolLM2-135M-Instruct, conversations of 128 tokens, greedy
answers of up to 64, all asked for at once. `--only`, `--concurrency`, `--rounds` and `--subjects` measure a part.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from feinschliff.artifacts import bases
from feinschliff.artifacts.bases import BaseFiles
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.records import Message
from feinschliff.lm.chat import Chat
from feinschliff.lm.load import load_tokenizer, prepare
from tests.bench.environments import Failed
from tests.bench.inference import drafting, ours, peers
from tests.bench.inference.measured import Measured, median, metrics, say
from tests.bench.inference.prompts import conversations
from tests.contract.inference.adapters import make_adapter

SUBJECTS = ("feinschliff", "feinschliff-int8", "serve-batching", "serve", "generate", "llamacpp")
SECTIONS = ("service", "adapters", "overhead", "streams", "lookup")
CONCURRENCY = (1, 8, 32)
STREAMS = 1000
STREAM_TOKENS = 8
ADAPTERS = 4
# metric, peer, sign, bound, and the concurrencies that it is for.
GOALS = (
    ("tokens_per_second", "serve-batching", ">=", 5.0, (8, 32)),
    ("first_token_seconds_p95", "serve-batching", "<=", 0.25, (8, 32)),
    ("decode_tokens_per_second", "generate", ">=", 3.0, (1,)),
    ("decode_tokens_per_second", "llamacpp", ">=", 0.65, (1,)),
    ("decode_tokens_per_second", "llamacpp", ">=", 1.3, (8, 32)),
)
READY_SECONDS_MAX = 15.0
ADAPTERS_SHARE_MIN = 0.85
REQUEST_SECONDS_MAX = 0.003
TOKEN_SECONDS_MAX = 0.0002

Known = dict[tuple[str, int], list[Measured]]


def main() -> None:
    options = _options()
    print(f"cores={os.cpu_count()} load={os.getloadavg()[0]:.1f}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        store = DirectoryStore(Path(folder, "store"))
        base = bases.resolve(ours.BASE, store, options.home / "cache" / "bases", offline=True)
        parts = {"service": service, "adapters": adapters, "overhead": overhead, "streams": streams, "lookup": lookup}
        for section in options.only:
            parts[section](options, base, Path(folder))


def service(options: argparse.Namespace, base: BaseFiles, folder: Path) -> None:
    """Every subject in turn, at each concurrency, again in each round."""
    plain = prepare(base, options.home / "cache" / "bases")
    known: Known = {}
    with ours.Service(options.home, options.precision) as served:
        texts = [conversations(32, served.prompt_tokens, seed=seed) for seed in range(options.rounds)]
        ids = [[_ids(plain, text) for text in one] for one in texts]
    for number in range(options.rounds):
        for subject in options.subjects:
            measure = _measures(options, base, plain, folder, texts[number], ids[number])[subject]
            try:
                for concurrency, found in measure().items():
                    known.setdefault((subject, concurrency), []).append(found)
            except Failed as failure:
                say(bench=f"inference.service.{options.precision}", subject=subject, skipped=str(failure))
    for (subject, concurrency), runs in known.items():
        _numbers(f"inference.service.{options.precision}.{concurrency}", subject, runs)
    for metric, peer, sign, bound, at in GOALS:
        for concurrency in at:
            _held(known, options.precision, concurrency, metric, peer, sign, bound)
    ready = [run.ready_seconds for run in known.get(("feinschliff", 1), []) if run.ready_seconds is not None]
    if ready:
        bench = f"inference.service.{options.precision}"
        _goal(bench, f"ready_seconds <= {READY_SECONDS_MAX:g}", median(ready), median(ready) <= READY_SECONDS_MAX)


def adapters(options: argparse.Namespace, base: BaseFiles, folder: Path) -> None:
    """Eight requests on the engine alone: the base, one adapter, and four in turn; without drafts, as texts differ."""
    plain = prepare(base, options.home / "cache" / "bases")
    alone = ours.Alone(base, options.precision, options.home, lookup_tokens_max=0)
    names = [f"adapter-{number}" for number in range(ADAPTERS)]
    for number, name in enumerate(names):
        alone.engine.load_adapter(name, make_adapter(plain, folder / name, seed=number, rank=16))
    known: dict[str, list[Measured]] = {}
    for number in range(options.rounds):
        texts = conversations(8, lambda text: len(_ids(plain, text)), seed=number)
        prompts = [_ids(plain, text) for text in texts]
        for subject, used in {"no adapter": [""], "one adapter": names[:1], "four adapters": names}.items():
            alone.ask(prompts[:2], used)
            known.setdefault(subject, []).append(alone.ask(prompts, used))
    alone.engine.close()
    bench = f"inference.adapters.{options.precision}.8"
    for subject, runs in known.items():
        _numbers(bench, subject, runs)
    speeds = {subject: median([run.tokens_per_second for run in runs]) for subject, runs in known.items()}
    share = speeds["four adapters"] / speeds["one adapter"]
    _goal(bench, f"tokens_per_second / one adapter >= {ADAPTERS_SHARE_MIN}", share, share >= ADAPTERS_SHARE_MIN)


def overhead(options: argparse.Namespace, base: BaseFiles, folder: Path) -> None:
    """One request at a time, through the door and on the engine alone, in turn; without drafts, tokens come evenly."""
    plain = prepare(base, options.home / "cache" / "bases")
    through, without = [], []
    with ours.Service(options.home, options.precision, lookup_tokens_max=0) as served:
        alone = ours.Alone(base, options.precision, options.home, lookup_tokens_max=0)
        texts = conversations(4 * options.rounds, lambda text: len(_ids(plain, text)), seed=99)
        served.ask(texts[:1])
        alone.ask([_ids(plain, texts[0])], [""])
        for text in texts:
            through.append(served.ask([text]))
            without.append(alone.ask([_ids(plain, text)], [""]))
        alone.engine.close()
    first = [median([run.first_token_seconds[0] for run in runs]) for runs in (through, without)]
    step = [median([gap for run in runs for gap in run.next_token_seconds]) for runs in (through, without)]
    bench = f"inference.overhead.{options.precision}"
    for name, (with_door, engine), bound in (
        ("first token", first, REQUEST_SECONDS_MAX),
        ("next token", step, TOKEN_SECONDS_MAX),
    ):
        _goal(
            bench,
            f"{name}: seconds more than the engine alone <= {bound}",
            with_door - engine,
            with_door - engine <= bound,
        )


def streams(options: argparse.Namespace, base: BaseFiles, folder: Path) -> None:
    """So many streams at once that most of them wait."""
    with ours.Service(options.home, options.precision) as served:
        served.ask(["Hello."])
        before = served.rss_mib
        found = served.ask([f"Say {number}." for number in range(STREAMS)], tokens=STREAM_TOKENS)
    bench = f"inference.streams.{options.precision}.{STREAMS}"
    _numbers(bench, "feinschliff", [found])
    say(bench=bench, subject="feinschliff", metric="rss_mib_before", value=round(before, 1))
    ended = len(found.first_token_seconds)
    _goal(bench, f"streams that ended well == {STREAMS}", ended, ended == STREAMS)


def lookup(options: argparse.Namespace, base: BaseFiles, folder: Path) -> None:
    """The engine with drafts and without, in turn."""
    plain = prepare(base, options.home / "cache" / "bases")
    drafting.measure(
        base,
        lambda text: _ids(plain, text),
        precision=options.precision,
        home=options.home,
        rounds=options.rounds,
        concurrency=options.concurrency,
    )


def _measures(
    options: argparse.Namespace,
    base: BaseFiles,
    plain: Path,
    folder: Path,
    texts: Sequence[str],
    ids: Sequence[Sequence[int]],
) -> Mapping[str, Callable[[], Mapping[int, Measured]]]:
    """How each subject is measured at all concurrencies."""

    def prompts(concurrency: int) -> Path:
        path = folder / f"prompts-{concurrency}.json"
        path.write_text(json.dumps([ids[:concurrency]]), "utf-8")
        return path

    def feinschliff(precision: str) -> Mapping[int, Measured]:
        with ours.Service(options.home, precision) as served:
            served.ask(["Hello."])
            found = {number: served.ask(texts[:number]) for number in options.concurrency}
            return {
                number: one.model_copy(update={"ready_seconds": served.ready_seconds}) for number, one in found.items()
            }

    def serve(batching: bool) -> Mapping[int, Measured]:
        with peers.Serve(plain, options.precision, folder / "serve.log", batching=batching) as served:
            served.ask(["Hello."])
            return {
                number: served.ask(texts[:number]) for number in options.concurrency if batching or number <= 8
            }  # alone it answers one after another

    return {
        "feinschliff": lambda: feinschliff(options.precision),
        "feinschliff-int8": lambda: feinschliff("int8"),
        "serve-batching": lambda: serve(True),
        "serve": lambda: serve(False),
        "generate": lambda: {
            number: peers.generate(plain, prompts(number), options.precision, 1)[0] for number in options.concurrency
        },
        "llamacpp": lambda: {
            number: peers.llama_cpp(base.path, prompts(number), 1, options.peers)[0] for number in options.concurrency
        },
    }


def _ids(plain: Path, text: str) -> list[int]:
    """Of the whole conversation, as the service renders it."""
    return list(_chat(plain).prompt_ids([Message(role="user", content=text)]))


@functools.lru_cache
def _chat(plain: Path) -> Chat:
    return Chat.of(load_tokenizer(plain), generation_stop_ids=[])


def _numbers(bench: str, subject: str, runs: Sequence[Measured]) -> None:
    for metric, values in metrics(runs).items():
        spread = [round(min(values), 4), round(max(values), 4)]
        say(bench=bench, subject=subject, metric=metric, value=round(median(values), 4), runs=len(runs), spread=spread)


def _held(known: Known, precision: str, concurrency: int, metric: str, peer: str, sign: str, bound: float) -> None:
    if not {("feinschliff", concurrency), (peer, concurrency)} <= known.keys():
        return
    mine, theirs = (median(metrics(known[subject, concurrency])[metric]) for subject in ("feinschliff", peer))
    ratio = mine / theirs
    goal = f"{metric} / {peer} {sign} {bound}"
    _goal(
        f"inference.service.{precision}.{concurrency}", goal, ratio, ratio >= bound if sign == ">=" else ratio <= bound
    )


def _goal(bench: str, goal: str, value: float, holds: bool) -> None:
    say(bench=bench, goal=goal, value=round(value, 5), holds=holds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--concurrency", nargs="+", type=int, default=list(CONCURRENCY))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--home", type=Path, default=Path(".feinschliff"), help="where bases are unpacked")
    parser.add_argument("--peers", type=Path, default=Path(".build/peers"), help="environments of the peers")
    options = parser.parse_args()
    options.home, options.peers = options.home.absolute(), options.peers.absolute()
    return options


if __name__ == "__main__":
    main()
