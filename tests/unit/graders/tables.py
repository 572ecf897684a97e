"""What each grader gives for which answer: graders that read a text. None: it cannot be graded."""

from __future__ import annotations

from typing import NamedTuple

from feinschliff.graders.grade import Fault
from feinschliff.graders.spec import Spec

REFERENCE = "{{ item.right }}"


class Row(NamedTuple):
    """A definition without its name, the row's `right`, the answer, and the grade."""

    spec: Spec
    right: object
    answer: str
    value: float | None
    fault: Fault | None = None


def rows(spec: Spec, *cases: tuple[object, str, float | None] | tuple[object, str, None, Fault]) -> list[Row]:
    return [Row(spec, *case) for case in cases]


def checked(operation: str) -> Spec:
    return {"type": "string_check", "input": "{{sample.output_text}}", "reference": REFERENCE, "operation": operation}


def similar(metric: str) -> Spec:
    source = {"input": "{{sample.output_text}}", "reference": REFERENCE}
    return {"type": "text_similarity", **source, "evaluation_metric": metric}


NUMERIC: Spec = {"type": "numeric", "reference": REFERENCE}
CHOICE: Spec = {"type": "choice", "reference": REFERENCE, "options": ["A", "B", "C", "D"]}
WORDS: Spec = {"type": "choice", "reference": REFERENCE, "options": ["yes", "no", "not sure"]}
CLASSES: Spec = {"type": "classification", "reference": REFERENCE, "labels": ["refund", "delivery", "Billing"]}
LONG = "one two three\n\nfour five"

TEXTS = [
    *rows(
        checked("eq"),
        ("refund", "refund", 1),
        ("refund", "Refund", 0),
        ("refund", " refund", 0),
        (7, "7", 1),
        (True, "true", 1),
        (None, "null", 1),
        (["a", 1], '["a", 1]', 1),
        ("ä", "a\u0308", 0),
    ),
    *rows(checked("ne"), ("a", "b", 1), ("a", "a", 0), ("", " ", 1)),
    *rows(checked("like"), ("b", "abc", 1), ("B", "abc", 0), ("abc", "b", 0), ("", "abc", None, Fault.REFERENCE)),
    *rows(
        checked("ilike"),
        ("B", "abc", 1),
        ("STRASSE", "die Straße", 1),
        ("x", "abc", 0),
        ("", "", None, Fault.REFERENCE),
    ),
    *rows(checked("contains"), ("b", "abc", 1), ("B", "abc", 0), ("", "abc", None, Fault.REFERENCE)),
    *rows(similar("fuzzy_match"), ("kitten", "sitting", 8 / 13), ("", "", 1), ("a", "", 0), ("a", "a", 1)),
    *rows(
        similar("bleu"),
        ("the cat sat on the mat", "the cat sat on the mat", 1),
        ("the cat sat on the mat", "", 0),
        ("the cat sat on the mat", "dogs bark", 0),
        ("", "the cat", None, Fault.REFERENCE),
        ("  \n", "the cat", None, Fault.REFERENCE),
    ),
    *rows(
        similar("gleu"),
        ("a b c d", "a b c d", 1),
        ("a b c d", "a b c", 6 / 10),
        ("a b", "c", 0),
        ("", "c", None, Fault.REFERENCE),
    ),
    *rows(
        similar("meteor"),
        ("run", "running", 0.5),
        ("a b c d", "x y", 0),
        ("a b c d", "", 0),
        ("", "a", None, Fault.REFERENCE),
    ),
    *rows(
        similar("rouge_1"), ("a b", "b a", 1), ("a b", "a", 2 / 3), ("a", "", 0), ("...", "a", None, Fault.REFERENCE)
    ),
    *rows(similar("rouge_2"), ("a b", "a b", 1), ("a b", "b a", 0), ("a", "a", None, Fault.REFERENCE)),
    *rows(similar("rouge_3"), ("a b c", "a b c", 1), ("a b", "a b", None, Fault.REFERENCE)),
    *rows(similar("rouge_4"), ("a b c d", "a b c d", 1), ("a b c", "a b c d", None, Fault.REFERENCE)),
    *rows(similar("rouge_5"), ("a b c d e", "a b c d e f", 2 / 3), ("a b c d", "a", None, Fault.REFERENCE)),
    *rows(similar("rouge_l"), ("a b c", "a c", 0.8), ("a b", "b a", 0.5), ("日本", "日本", None, Fault.REFERENCE)),
    *rows(
        NUMERIC,
        ("42", "It is 42.", 1),
        (42, "42", 1),
        ("42", "41 or 42", 1),
        ("42", "42 or 41", 0),
        ("42", "no number here", 0),
        ("42", "", 0),
        ("1,234", "the sum is $1,234.00", 1),
        ("1234567", "1,234,567", 1),
        ("3", "1,2,3", 1),
        ("-3", "x=-3", 1),
        ("-3", "\u22123", 1),
        ("3", "5-3", 1),
        ("0.5", ".5", 1),
        ("1e3", "1000", 1),
        ("1000", "1e3", 1),
        ("5", "5%", 1),
        ("7", "GPT7", 0),
        ("1.0000001", "1", 1),
        ("1.01", "1", 0),
        ("0", "0.0", 1),
        ("0", "1e-9", 0),
        ("12", "#### 12\n", 1),
        ("many", "12", None, Fault.REFERENCE),
        ("", "12", None, Fault.REFERENCE),
        ("12 apples", "12", None, Fault.REFERENCE),
        ("9" * 500, "12", None, Fault.REFERENCE),
    ),
    *rows({**NUMERIC, "relative_tolerance": 0.1}, ("100", "91", 1), ("100", "89", 0), ("-100", "-109", 1)),
    *rows({**NUMERIC, "relative_tolerance": 0, "absolute_tolerance": 0.5}, ("0", "0.5", 1), ("0", "0.6", 0)),
    *rows(
        CHOICE,
        ("B", "B", 1),
        ("B", "b", 1),
        ("B", "(B)", 1),
        ("B", "**B**", 1),
        ("B", "B.", 1),
        ("B", "B) because it is right", 1),
        ("B", "(b) because", 1),
        ("B", "The answer is B.", 1),
        ("B", "The answer is **B**", 1),
        ("B", "Answer: B", 1),
        ("B", "answer: (C)", 0),
        ("B", "First I thought the answer is A. But the answer is B.", 1),
        ("B", r"Therefore \boxed{B}", 1),
        ("B", "Die Antwort lautet: B", 1),
        ("B", "Option B", 1),
        ("B", "I would take B here", 1),
        ("A", "It was a long day", None, Fault.SAMPLE),
        ("A", "A long day it was, said B", None, Fault.SAMPLE),
        ("B", "A or B or C", None, Fault.SAMPLE),
        ("B", "no idea", None, Fault.SAMPLE),
        ("B", "", None, Fault.SAMPLE),
        ("b", "B", 1),
        (" B ", "B", 1),
        ("E", "B", None, Fault.REFERENCE),
        ("", "B", None, Fault.REFERENCE),
    ),
    *rows(
        WORDS,
        ("yes", "Yes!", 1),
        ("yes", "I think yes, it is.", 1),
        ("no", "The answer is no", 1),
        ("not sure", "I am not sure", 1),
        ("not sure", "NOT SURE", 1),
        ("no", "nobody knows", None, Fault.SAMPLE),
        ("no", "yes and no", None, Fault.SAMPLE),
        ("maybe", "yes", None, Fault.REFERENCE),
    ),
    *rows(
        CLASSES,
        ("refund", "refund", 1),
        ("refund", "REFUND.", 1),
        ("refund", "The intent is refund", 1),
        ("billing", "billing", 1),
        ("Billing", "label: billing", 1),
        ("refund", "delivery", 0),
        ("refund", "something else", 0),
        ("refund", "refund or delivery", 0),
        ("refund", "", 0),
        ("returns", "refund", None, Fault.REFERENCE),
    ),
    *rows({"type": "length", "max": 3}, ("", "abc", 1), ("", "abcd", 0), ("", "", 1), ("", "äöü", 1)),
    *rows({"type": "length", "min": 2, "max": 3}, ("", "a", 0), ("", "ab", 1), ("", "abcd", 0)),
    *rows({"type": "length", "unit": "words", "max": 5}, ("", LONG, 1), ("", LONG + " six", 0)),
    *rows({"type": "length", "unit": "lines", "min": 2}, ("", LONG, 1), ("", "one", 0), ("", "\n\n", 0)),
    *rows({"type": "length", "input": "{{ item.right }}", "min": 1}, ("x", "", 1), ("", "x", 0)),
    *rows(
        {"type": "regex", "pattern": r"\d{3}"},
        ("", "call 123 now", 1),
        ("", "call 12 now", 0),
        ("", "", 0),
    ),
    *rows({"type": "regex", "pattern": r"\d{3}", "full_match": True}, ("", "123", 1), ("", "1234", 0), ("", "x123", 0)),
    *rows({"type": "regex", "pattern": "REFUND", "ignore_case": True}, ("", "a refund", 1), ("", "re fund", 0)),
    *rows(
        {"type": "regex", "pattern": r"####\s*(-?\d+)", "reference": REFERENCE},
        ("42", "so\n#### 42", 1),
        ("42", "#### 41\n#### 42", 1),
        ("42", "#### 42\n#### 41", 0),
        ("42", "42", 0),
        (42, "#### 42", 1),
    ),
    *rows({"type": "regex", "pattern": r"\bx+\b", "reference": REFERENCE}, ("xx", "a xx b", 1), ("x", "a xx b", 0)),
    *rows({"type": "regex", "pattern": "(a)?b", "reference": "{{ item.right }}"}, ("", "b", 1), ("a", "ab", 1)),
]
