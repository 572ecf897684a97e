"""A run with everything about it parsed, ready to be worked on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from feinschliff.evaluation.item_schema import ItemSchema
from feinschliff.evaluation.prompts.examples import Examples
from feinschliff.evaluation.prompts.prompt import Prompt, item_of
from feinschliff.evaluation.prompts.store import StoredPrompt
from feinschliff.evaluation.resources import Eval, Run, Sampling
from feinschliff.evaluation.store import storable
from feinschliff.formats.records import Message
from feinschliff.graders import template
from feinschliff.graders.grade import Item
from feinschliff.graders.grader import parse_all
from feinschliff.graders.protocol import Grader
from feinschliff.graders.template import Path, Unresolved

_MEASURED_BY = (
    "model",
    "dataset_version",
    "has_own_rows",
    "completions",
    "split",
    "limit",
    "total",
    "samples",
    "prompt",
    "examples",
    "tools",
    "sampling",
    "answer_path",
)
DEFAULT_SAMPLING: Sampling = {"temperature": 0.0, "max_tokens": 64}


@dataclass(frozen=True)
class Plan:
    """`answer` is read from the row where no model is asked; `sampling` is of one answer, without `n`."""

    run: Run
    prompt: Prompt
    graders: Sequence[Grader]
    sampling: Sampling
    answer: Path
    tools: Sequence[Mapping[str, object]]
    examples: Examples | None
    schema: ItemSchema | None

    @classmethod
    def of(cls, run: Run, eval_: Eval, stored: StoredPrompt | None) -> Plan:
        """Args: stored: the prompt that the run or the eval names, where one does."""
        spec = {"messages": stored.messages} if stored is not None else run.prompt or eval_.prompt
        return cls(
            run=run,
            prompt=Prompt.from_spec(spec, field="prompt"),
            graders=parse_all(eval_.graders, path="graders", is_stored=True),
            sampling=sampling_of(run, eval_, stored),
            answer=template.parse_path(run.answer_path, field="answer_path"),
            tools=run.tools or (stored.tools if stored is not None else ()),
            examples=None if run.examples is None else Examples.of(run.examples, run.dataset_version),
            schema=None if eval_.item_schema is None else ItemSchema(eval_.item_schema),
        )

    def item(self, line: int, data: Item) -> Item:
        return item_of({"line": line, **data})

    def question(self, line: int, item: Item) -> list[Message]:
        """What the model is asked about a row; raises Unresolved."""
        asked = self.prompt.render(item)
        return asked if self.examples is None else self.examples.before(self.prompt, line, asked)

    def sampling_for(self, sample_index: int) -> Sampling:
        """Each of several answers has a seed of its own, where there is one at all."""
        seed = self.sampling.get("seed")
        if sample_index == 0 or seed is None:
            return self.sampling
        return {**self.sampling, "seed": int(str(seed)) + sample_index}

    def answer_in(self, item: Item) -> Message:
        """The answer that the row has: a text, or a turn with its tool calls; raises Unresolved."""
        value = self.answer.value({"item": item})
        if isinstance(value, Mapping) and value.get("role") == "assistant":
            try:
                return Message.model_validate(value)
            except ValidationError as error:
                raise Unresolved(f"{self.answer} is no turn: {error.errors()[0]['msg']}") from None
        return Message(role="assistant", content=template.text_of(value))


def sampling_of(run: Run, eval_: Eval, stored: StoredPrompt | None) -> Sampling:
    """What is not said by the run comes from the eval, then from the stored prompt, then from the defaults."""
    of_prompt = stored.sampling if stored is not None else {}
    merged = {**DEFAULT_SAMPLING, **of_prompt, **eval_.sampling, **run.sampling}
    return {name: value for name, value in merged.items() if name != "n"}


def unlike(run: Run, planned: Run) -> list[str]:
    """What a run does not share with the one that was planned: names are free to take, so a name proves nothing."""
    return [
        name
        for name in _MEASURED_BY
        if storable({name: getattr(run, name)}) != storable({name: getattr(planned, name)})
    ]


def prompt_named_by(run: Run, eval_: Eval) -> str:
    """The stored prompt that a run asks with; empty: none."""
    return str((run.prompt or eval_.prompt).get("prompt", ""))
