"""Answered rows shown before the question: few-shot examples, drawn once when the run is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from feinschliff.evaluation.prompts.prompt import Prompt, item_of
from feinschliff.evaluation.resources import Split
from feinschliff.formats.records import Message
from feinschliff.graders import template
from feinschliff.graders.grade import Item
from feinschliff.graders.spec import refused
from feinschliff.graders.template import Template

COUNT_MAX = 64
DEFAULT_EXAMPLE_ANSWER = "{{ item.completion }}"
_INSTRUCTIONS = ("system", "developer")


class Shot(NamedTuple):
    """A row that may be shown; `line` tells it from the row that is asked."""

    line: int
    data: Item


@dataclass(frozen=True)
class ExamplesDraft:
    """What a run asks for; empty `dataset_version`: the run's, empty `split`: train."""

    dataset_version: str
    split: Split
    count: int
    seed: int
    answer: str


@dataclass(frozen=True)
class Examples:
    """Rows drawn, one more than are shown, so that the row that is asked can be left out."""

    count: int
    answer: Template
    shots: Sequence[Shot]
    are_of_the_run: bool

    @classmethod
    def of(cls, stored: Mapping[str, Any], dataset_version: str) -> Self:
        shots = [Shot(shot["line"], shot["data"]) for shot in stored["rows"]]
        answer = template.parse(stored["answer"], field="examples.answer", namespaces=("item",))
        return cls(stored["count"], answer, shots, stored["dataset_version"] == dataset_version)

    def before(self, prompt: Prompt, line: int, question: Sequence[Message]) -> list[Message]:
        """The question with the examples behind its instructions; raises Unresolved where an example lacks a path."""
        at = next((k for k, turn in enumerate(question) if turn.role not in _INSTRUCTIONS), len(question))
        others = [shot for shot in self.shots if not (self.are_of_the_run and shot.line == line)]
        shown = [turn for shot in others[: self.count] for turn in self._turns(prompt, shot)]
        return [*question[:at], *shown, *question[at:]]

    def _turns(self, prompt: Prompt, shot: Shot) -> list[Message]:
        item = item_of({"line": shot.line, **shot.data})
        asked = [turn for turn in prompt.render(item) if turn.role not in _INSTRUCTIONS]
        return [*asked, Message(role="assistant", content=self.answer.render(item))]


def check_examples(draft: ExamplesDraft, field: str) -> None:
    """Raises Invalid: EXAMPLES_INVALID, TEMPLATE_SYNTAX, TEMPLATE_NAMESPACE."""
    if not 1 <= draft.count <= COUNT_MAX:
        message = f"count is {draft.count}; a prompt shows 1 to {COUNT_MAX} examples."
        raise refused("EXAMPLES_INVALID", f"{field}.count", message, count=draft.count)
    template.parse(draft.answer or DEFAULT_EXAMPLE_ANSWER, field=f"{field}.answer", namespaces=("item",))


def stored_examples(draft: ExamplesDraft, dataset_version: str, shots: Sequence[Shot]) -> dict[str, object]:
    """What a run keeps: what was asked for, and the rows drawn for it."""
    if not shots:
        message = "There are no rows to show as examples; name another split or dataset version."
        raise refused("EXAMPLES_INVALID", "eval_run.examples", message, split=draft.split or "train")
    return {
        "dataset_version": draft.dataset_version or dataset_version,
        "split": draft.split,
        "count": draft.count,
        "seed": draft.seed,
        "answer": draft.answer or DEFAULT_EXAMPLE_ANSWER,
        "rows": [{"line": shot.line, "data": shot.data} for shot in shots],
    }
