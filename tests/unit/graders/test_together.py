"""Several that are asked at the same time."""

from __future__ import annotations

import asyncio

import pytest

from feinschliff.graders.grade import Fault
from feinschliff.graders.outside import CannotAsk
from feinschliff.graders.together import together


async def test_answers_come_in_the_order_of_the_questions() -> None:
    async def answer(number: int) -> int:
        await asyncio.sleep(0.01 if number == 0 else 0)
        return number

    assert await together(answer(number) for number in range(3)) == [0, 1, 2]


async def test_nobody_goes_on_asking_once_one_failed() -> None:
    ended = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise CannotAsk(Fault.JUDGE, "down")

    async def go_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(CannotAsk, match="down"):
        await together([fail(), go_on(), go_on()])
    assert ended == [True, True]
