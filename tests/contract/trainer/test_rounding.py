"""A job with a base in few bits begins with adapters that make up for the rounding, and says so once."""

from __future__ import annotations

from pathlib import Path

import pytest

from feinschliff.formats.report import Metrics, Notice
from feinschliff.lm.chat import Encoded
from feinschliff.trainer.rounding import TOKENS_MAX, calibration
from feinschliff.trainer.table import Table
from tests.support.trainer import Workshop, rows

KEY = "rounding_start"


def job(folder: Path, base: Path) -> Workshop:
    one = Workshop(folder, base, train=rows(24), validation=rows(8, first=50))
    one.recipe = {
        "adaptation": {"kind": "qlora", "lora": {"rank": 8}},
        "optimisation": {"epochs": 2, "batch_size": 6, "learning_rate": 1e-3},
        "checkpointing": {"every_steps": 2},
        "precision": "fp32",
    }
    return one


def told(one: Workshop) -> list[str]:
    return [posted.report.key for posted in one.reports() if isinstance(posted.report, Notice)]


def first_loss(one: Workshop) -> float:
    return next(posted.report.values["loss"] for posted in one.reports() if isinstance(posted.report, Metrics))


def test_it_does_so_once_and_goes_on_after_a_kill_from_where_it_was(tiny_model: Path, tmp_path: Path) -> None:
    calm, killed, random = (job(tmp_path / name, tiny_model) for name in ("calm", "killed", "random"))
    random.recipe["adaptation"] = {"kind": "qlora", "lora": {"rank": 8, "start": "random"}}
    whole = calm.run()
    random.run()
    killed.run(failpoints="checkpoint.after_commit=kill@2", expect=-9)  # the second is there, however slow
    result = killed.run(attempt=2)

    assert (told(calm).count(KEY), told(killed).count(KEY), told(random).count(KEY)) == (1, 1, 0)
    assert whole is not None
    assert result is not None
    assert result.digest == whole.digest
    assert first_loss(calm) != first_loss(random)


@pytest.mark.parametrize("lengths", [[30] * 500, [5000, 20, 20], [3000, 3000, 10], [12]])
def test_rows_from_all_over_count_up_to_a_limit(lengths: list[int]) -> None:
    table = Table()
    for number, length in enumerate(lengths):
        table.append(Encoded([number % 100 + 1] * (length + 1), [True] * (length + 1)))
    batch = calibration(table, lambda row, most: Encoded(row.token_ids[:most], row.is_answer[:most]))
    assert 0 < batch.tokens <= TOKENS_MAX
    if sum(lengths) > 2 * TOKENS_MAX and max(lengths) < 100:
        assert batch.tokens > 0.9 * TOKENS_MAX
        assert int(batch.token_ids_T[-1]) != int(batch.token_ids_T[0])
