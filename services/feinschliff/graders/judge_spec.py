"""What both kinds of judges are defined by: the model, what it is asked, and how it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from feinschliff.graders import template
from feinschliff.graders.grade import Item, Sample, quoted
from feinschliff.graders.spec import TEMPLATE_CHARACTERS_MAX, Spec, SpecReader, refused
from feinschliff.graders.template import Template
from feinschliff.kit.errors import FieldViolation, Unserved

TURNS_MAX = 64
SAMPLES_MAX = 32
MODEL_CHARACTERS_MAX = 500
TOKENS_DEFAULT = 2048
ROLES = ("system", "developer", "user", "assistant")
EFFORTS = ("none", "low", "medium", "high")
_TEXT_PARTS = ("input_text", "output_text", "text")


class Turn(NamedTuple):
    role: str
    text: Template


@dataclass(frozen=True)
class JudgeSpec:
    """`sampling` has the names of OpenAI's `sampling_params`; `n` answers are asked for."""

    model: str
    input: tuple[Turn, ...]
    sampling: Mapping[str, float | int | str] = field(hash=False)
    calibration: str

    @property
    def samples(self) -> int:
        return int(self.sampling.get("n", 1))

    def sampling_of(self, number: int) -> Mapping[str, float | int | str]:
        """Of one of the answers; a given seed goes up with it, so that answers differ and can be had again."""
        made = {key: value for key, value in self.sampling.items() if key != "n"}
        if "seed" in made:
            made["seed"] = int(made["seed"]) + number
        return made

    def turns(self, instructions: str, item: Item, sample: Sample) -> list[Mapping[str, str]]:
        """What the judge is told and asked; raises Unresolved."""
        told: Mapping[str, str] = {"role": "system", "content": instructions}
        return [told, *({"role": turn.role, "content": turn.text.render(item, sample)} for turn in self.input)]

    def spec(self) -> Spec:
        return {
            "model": self.model,
            "input": [{"role": turn.role, "content": turn.text.source} for turn in self.input],
            "sampling_params": dict(self.sampling),
            **({"calibration": self.calibration} if self.calibration else {}),
        }


def read_judge(reader: SpecReader) -> JudgeSpec:
    model = reader.text("model", characters_max=MODEL_CHARACTERS_MAX)
    if not model.strip():
        raise refused("GRADER_FIELD_MISSING", reader.field("model"), "A judge needs a model.", name="model")
    calibration = reader.text("calibration", "", characters_max=MODEL_CHARACTERS_MAX)
    return JudgeSpec(model, _turns(reader), _sampling(reader), calibration)


class Written(NamedTuple):
    """One message as its maker wrote it, with all its texts joined; `path` is where they stand."""

    role: str
    text: str
    path: str


def read_content(value: object, path: str, *, is_nested: bool) -> list[Written]:
    """Messages as OpenAI has them: `{"role", "content", "type": "message"}`, content a text, a part or a list of both.

    Raises:
        Invalid: GRADER_FIELD_TYPE, GRADER_FIELD_RANGE, GRADER_FIELD_UNKNOWN, GRADER_VALUE_UNKNOWN.
        Unserved: GRADER_CONTENT_UNSERVED.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise refused("GRADER_FIELD_TYPE", path, "'input' must be a list of messages.", name="input")
    if not 1 <= len(value) <= TURNS_MAX:
        message = f"'input' must have 1 to {TURNS_MAX} messages; it has {len(value)}."
        raise refused("GRADER_FIELD_RANGE", path, message, name="input", value=len(value))
    return [_written(turn, f"{path}[{place}]", is_nested=is_nested) for place, turn in enumerate(value)]


def _turns(reader: SpecReader) -> tuple[Turn, ...]:
    messages = read_content(reader.value("input"), reader.field("input"), is_nested=reader.nested)
    return tuple(Turn(one.role, template.parse(one.text, field=one.path)) for one in messages)


def _written(turn: object, path: str, *, is_nested: bool) -> Written:
    if not isinstance(turn, Mapping):
        raise refused("GRADER_FIELD_TYPE", path, "A message must be an object.", name="input")
    unknown = sorted(set(turn) - {"role", "content", "type"})
    if unknown or turn.get("type", "message") != "message":
        name = unknown[0] if unknown else "type"
        message = f"A message has role and content, no {name!r}."
        raise refused("GRADER_FIELD_UNKNOWN", f"{path}.{name}", message, name=name)
    role = turn.get("role")
    if role not in ROLES:
        message = f"{quoted(str(role))} is no role; it must be one of {', '.join(ROLES)}."
        raise refused("GRADER_VALUE_UNKNOWN", f"{path}.role", message, value=str(role)[:80])
    where = f"{path}.text" if is_nested else f"{path}.content"
    text = _text(turn.get("content"), where)
    if len(text) > TEMPLATE_CHARACTERS_MAX:
        message = f"A message has {len(text)} characters; at most {TEMPLATE_CHARACTERS_MAX} are read."
        raise refused("GRADER_FIELD_TOO_LONG", where, message, name="content", characters=len(text))
    return Written(str(role), text, where)


def _text(content: object, path: str) -> str:
    """A text, one part with a text, or a list of both."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return _part(content, path)
    if isinstance(content, Sequence) and content:
        return "".join(_listed(part, f"{path}[{place}]") for place, part in enumerate(content))
    raise refused(
        "GRADER_FIELD_TYPE", path, "The content of a message must be a text or parts with texts.", name="content"
    )


def _listed(part: object, path: str) -> str:
    if isinstance(part, Sequence) and not isinstance(part, str):
        raise refused("GRADER_FIELD_TYPE", path, "Parts do not lie in lists of their own.", name="content")
    return _text(part, path)


def _part(part: Mapping[str, object], path: str) -> str:
    kind, text = part.get("type"), part.get("text")
    if kind in _TEXT_PARTS and isinstance(text, str):
        return text
    if kind in ("input_image", "input_audio"):
        message = f"Parts of type {kind} are not served; judges read texts."
        violation = FieldViolation(f"{path}.type", message, "GRADER_CONTENT_UNSERVED")
        raise Unserved("GRADER_CONTENT_UNSERVED", message, fields=[violation], field=violation.field, type=str(kind))
    message = f"A part has a type of {', '.join(_TEXT_PARTS)} and a text."
    raise refused("GRADER_FIELD_TYPE", path, message, name="content")


def _sampling(reader: SpecReader) -> Mapping[str, float | int | str]:
    given = reader.mapping("sampling_params", is_needed=False)
    inner = SpecReader({"type": reader.type, **given}, reader.field("sampling_params"))
    inner.only(
        "temperature", "top_p", "seed", "max_completions_tokens", "max_completion_tokens", "reasoning_effort", "n"
    )
    sampling: dict[str, float | int | str] = {"temperature": inner.number("temperature", 0, 0, 2)}
    if inner.has("top_p"):
        sampling["top_p"] = inner.number("top_p", 1, 0, 1)
    if inner.has("seed"):
        sampling["seed"] = _whole(inner, "seed", 0, 2**62)
    spelled = "max_completion_tokens" if inner.has("max_completion_tokens") else "max_completions_tokens"
    tokens = _whole(inner, spelled, 1, 2**31 - 1) if inner.has(spelled) else TOKENS_DEFAULT
    sampling["max_completions_tokens"] = tokens
    if inner.has("reasoning_effort"):
        sampling["reasoning_effort"] = inner.choice("reasoning_effort", EFFORTS)
    count = _whole(inner, "n", 1, SAMPLES_MAX) if inner.has("n") else 1
    if count > 1 and sampling["temperature"] == 0:
        message = f"{count} answers at temperature 0 are all the same; give a temperature above 0, or leave n out."
        raise refused("GRADER_FIELD_RANGE", inner.field("n"), message, name="n", value=count)
    return sampling | ({"n": count} if count > 1 else {})


def _whole(reader: SpecReader, name: str, low: int, high: int) -> int:
    value = reader.value(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise reader.wrong_type(name, "a whole number")
    reader.number(name, low, low, high)
    return value
