"""Answers of a given form: which tokens can come next, by llguidance; and which control tokens are shown."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import orjson
from numpy.typing import NDArray

from feinschliff.formats.schemas import inner_schemas
from feinschliff.inference.forms import MARKER, TO_MARKER, Form, Schema
from feinschliff.kit.errors import FieldViolation, Invalid

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from tokenizers import Tokenizer

_KEPT_MAX = 64  # grammars, the longest unused goes first
_DEPTH_MAX = 64  # schemas inside each other that are looked through for what is wrong


class Grammar:
    """A form made ready for one tokenizer; any number of answers can be written by it."""

    def __init__(self, form: Form, matcher: LLMatcher, end_ids: Sequence[int], text: str) -> None:
        self.form = form
        self.text = text  # in llguidance's dialect of Lark, for this tokenizer
        self._matcher = matcher
        self._end_ids = frozenset(end_ids)

    def begin(self) -> Writing:
        return Writing(self._matcher.deep_copy(), self._end_ids)


class Writing:
    """One answer as far as it is written."""

    def __init__(self, matcher: LLMatcher, end_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._end_ids = end_ids

    def allowed(self, vocabulary_tokens: int) -> NDArray[np.bool_]:
        """The tokens that can come next; none where the form has got too complex to follow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.zeros(vocabulary_tokens, np.bool_)
        if self._matcher.is_error():  # llguidance would let the answer end
            return allowed
        found = np.unpackbits(bits, bitorder="little")[:vocabulary_tokens]
        allowed[: found.size] = found
        return allowed

    def takes(self, token: int) -> bool:
        """Whether it can come next."""
        if token in self._end_ids:
            return bool(self._matcher.is_accepting())
        return bool(self._matcher.validate_tokens([token]) == 1)

    def accept(self, token: int) -> None:
        if token not in self._end_ids:
            self._matcher.consume_token(token)

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def error(self) -> str:
        return str(self._matcher.get_error()).partition("\n")[0]


class Grammars:
    """The forms that were asked for, each made ready once; every method may be called from any thread.

    Args:
        end_ids: tokens that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary_tokens: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_tokens = vocabulary_tokens
        self._end_ids = list(end_ids)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Grammar] = OrderedDict()

    def grammar(self, form: Form) -> Grammar:
        """Blocks for the first of a form: a second at most for large schemas, and once for the vocabulary.

        Raises:
            Invalid: SCHEMA_UNSUPPORTED, with the path of what cannot be enforced.
        """
        with self._lock:
            if form.grammar in self._kept:
                self._kept.move_to_end(form.grammar)
                return self._kept[form.grammar]
        text = self._marked(form)
        made = Grammar(form, self._matcher(form, text), self._end_ids, text)
        with self._lock:
            self._kept[form.grammar] = made
            while len(self._kept) > _KEPT_MAX:
                self._kept.popitem(last=False)
        return made

    def _matcher(self, form: Form, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._vocabulary, LLMatcher.grammar_from_lark(grammar), log_level=0)
        if matcher.is_error():
            raise _unsupported(form, str(matcher.get_error()))
        return matcher

    def _marked(self, form: Form) -> str:
        """The grammar with its marker as the vocabulary has it: one control token, or text."""
        if not form.marker:
            return form.grammar
        found = control_tokens(self._tokenizer).get(form.marker)
        term = f"<[{found}]>" if found is not None else orjson.dumps(form.marker).decode()
        lead = f"lead: TEXT {term}" if found is not None else f"lead[lazy]: TEXT {term}"
        return form.grammar.replace(TO_MARKER, lead).replace(MARKER, term)

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        description = orjson.loads(self._tokenizer.to_str())
        description.update(truncation=None, padding=None)
        size = max(self._vocabulary_tokens, self._tokenizer.get_vocab_size())
        return LLTokenizer(orjson.dumps(description).decode(), n_vocab=size, eos_token=self._end_ids or None)


def control_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Tokens that are no text, by how they are written."""
    return {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def showing(tokenizer: Tokenizer, shown: Sequence[str]) -> Callable[[Sequence[int]], str]:
    """Decodes as the tokenizer does, without control tokens but for those named."""
    every = control_tokens(tokenizer) if shown else {}
    kept = {every[text]: text for text in shown if text in every}

    def decode(token_ids: Sequence[int]) -> str:
        text, run = "", list[int]()
        for token in [*token_ids, None] if kept else []:
            if token is not None and token not in kept:
                run.append(token)
                continue
            text += str(tokenizer.decode(run)) if run else ""
            text, run = text + (kept[token] if token is not None else ""), []
        return text if kept else str(tokenizer.decode(list(token_ids)))

    return decode


def _unsupported(form: Form, error: str) -> Invalid:
    """Names the innermost schema that is at fault."""
    wrong = [(schema, why) for schema in form.schemas if (why := _problem(schema))]
    fields = []
    for schema, why in wrong:
        inner = _innermost(schema, why)
        fields.append(FieldViolation(inner.path, f"The schema cannot be enforced: {why}.", "SCHEMA_UNSUPPORTED"))
    why = wrong[0][1] if wrong else error.partition("\n")[0][:500]
    where = fields[0].field if fields else ""
    return Invalid(
        "SCHEMA_UNSUPPORTED",
        f"{where or 'The form of the answer'} cannot be enforced: {why}.",
        fields=fields,
        advice=["Leave the keyword out, or set strict to false, which enforces what can be."],
        path=where,
        why=why,
    )


def _problem(schema: Schema) -> str:
    """What llguidance cannot enforce of it; empty where it can."""
    from llguidance import LLMatcher

    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(f"start: {schema.rule}"))
    if not error or error.startswith("WARNING"):
        return ""
    said = str(error).partition("failed to compile JSON schema: ")[2] or str(error)
    return " ".join(said.partition("\n   1 |")[0].split()).rstrip(".")[:500]


def _innermost(schema: Schema, why: str) -> Schema:
    """The schema deepest inside that has the same problem on its own."""
    given = orjson.loads(schema.text)
    shared = {key: given[key] for key in ("$defs", "definitions") if key in given}
    for _ in range(_DEPTH_MAX):
        for path, inner in inner_schemas(given):
            alone = replace(schema, path=f"{schema.path}.{path}", text=orjson.dumps({**shared, **inner}).decode())
            if _problem(alone) == why:
                schema, given = alone, inner
                break
        else:
            break
    return schema
