"""Evals from files of questions: multiple choice, and word problems as GSM8K has them; all pure but the reading."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from feinschliff.kit.errors import Invalid
from feinschliff.v1 import evaluation_pb2 as pb

LETTERS = string.ascii_uppercase
COMPLETION = "{{ item.completion }}"
CHOICE_ASK = "Answer with the letter of the right option."
GSM8K_ASK = "Think step by step, and end with the number alone after ####."
_TABLE = str.maketrans("", "", ",$ ")


def rows_of(file: Path, kind: str) -> Iterator[dict[str, object]]:
    """The file's rows as conversations whose last turn is what is right.

    Raises:
        Invalid: EVAL_FILE_INVALID with the line that does not have what its kind needs.
    """
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                question, answer = KINDS[kind](json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                message = f"Line {number} of {file.name} is no row of kind {kind}: {type(error).__name__}: {error}"
                raise Invalid("EVAL_FILE_INVALID", message, line=number, kind=kind) from None
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            yield {"messages": turns}


def gsm8k(row: Mapping[str, object]) -> tuple[str, str]:
    """`question`, and `answer` whose last line is `#### 42`."""
    _, mark, answer = str(row["answer"]).rpartition("####")
    number = answer.translate(_TABLE).strip()
    if not mark:
        raise ValueError("the answer has no ####")
    float(number)
    return f"{row['question']}\n\n{GSM8K_ASK}", number


def choice(row: Mapping[str, object]) -> tuple[str, str]:
    """`question`, `choices` (a list), and `answer`: a letter, an index from 0, or the text of a choice."""
    choices = row["choices"]
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise ValueError("choices is no list of 2 to 26 texts")
    options = [f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False)]
    index = _index(row["answer"], [str(text) for text in choices])
    return "\n".join([str(row["question"]), *options, "", CHOICE_ASK]), LETTERS[index]


def _index(answer: object, choices: list[str]) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, str) and len(answer) == 1 and answer.upper() in LETTERS[: len(choices)]:
        return LETTERS.index(answer.upper())
    raise ValueError(f"answer {answer!r} is none of the choices")


KINDS: Mapping[str, Callable[[Mapping[str, object]], tuple[str, str]]] = {"gsm8k": gsm8k, "choice": choice}


def grader_of(kind: str, options: int) -> pb.Grader:
    """The last number of the answer for word problems; for multiple choice the letter chosen, among `options`."""
    if kind == "gsm8k":
        return pb.Grader(name="answer", numeric=pb.NumericGrader(reference=COMPLETION))
    letters = list(LETTERS[: max(options, 2)])
    return pb.Grader(name="answer", choice=pb.ChoiceGrader(reference=COMPLETION, options=letters))


def options_in(file: Path) -> int:
    """The most choices that a row of the file has."""
    with file.open(encoding="utf-8") as lines:
        return max((len(json.loads(line).get("choices", ())) for line in lines if line.strip()), default=0)
