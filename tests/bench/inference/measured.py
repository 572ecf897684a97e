"""What one load on a server gives: from the times at which the pieces of its answers came."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from itertools import pairwise

from pydantic import BaseModel


class Stream(BaseModel):
    """One answer: when it was asked for, when pieces of it came, and how many tokens they were."""

    asked: float
    pieces: list[float]
    tokens: int


class Measured(BaseModel):
    """Speeds in answered tokens a second, times in seconds, memory in MiB."""

    tokens_per_second: float
    decode_tokens_per_second: float
    first_token_seconds: list[float]
    next_token_seconds: list[float]
    peak_rss_mib: float
    load_average: float
    ready_seconds: float | None = None


def measured(streams: Sequence[Stream], *, rss_mib: float, load_average: float) -> Measured:
    """Decoding is measured while all answers run: from the last one's first piece to the first one's last."""
    begin, end = min(one.asked for one in streams), max(one.pieces[-1] for one in streams)
    all_run, one_ends = max(one.pieces[0] for one in streams), min(one.pieces[-1] for one in streams)
    decoded = sum(sum(all_run < at <= one_ends for at in one.pieces) * one.tokens / len(one.pieces) for one in streams)
    return Measured(
        tokens_per_second=sum(one.tokens for one in streams) / (end - begin),
        decode_tokens_per_second=decoded / (one_ends - all_run) if one_ends > all_run else 0.0,
        first_token_seconds=[one.pieces[0] - one.asked for one in streams],
        next_token_seconds=[after - before for one in streams for before, after in pairwise(one.pieces)],
        peak_rss_mib=rss_mib,
        load_average=load_average,
    )


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def metrics(runs: Sequence[Measured]) -> dict[str, list[float]]:
    """Each metric's values, one a run."""
    found = {
        "tokens_per_second": [run.tokens_per_second for run in runs],
        "decode_tokens_per_second": [run.decode_tokens_per_second for run in runs],
        "first_token_seconds_p50": [percentile(run.first_token_seconds, 0.5) for run in runs],
        "first_token_seconds_p95": [percentile(run.first_token_seconds, 0.95) for run in runs],
        "next_token_seconds_p95": [percentile(run.next_token_seconds or [0.0], 0.95) for run in runs],
        "peak_rss_mib": [run.peak_rss_mib for run in runs],
        "load_average": [run.load_average for run in runs],
        "ready_seconds": [run.ready_seconds for run in runs if run.ready_seconds is not None],
    }
    return {metric: values for metric, values in found.items() if values}


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)
