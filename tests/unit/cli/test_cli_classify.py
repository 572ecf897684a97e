"""What people read of a judgement."""

from __future__ import annotations

from feinschliff.cli.classify import rows
from feinschliff.v1 import inference_pb2 as pb


def test_a_text_is_shown_with_its_classes_or_its_number() -> None:
    scores = [pb.ClassScore(label="refund", probability=0.875), pb.ClassScore(label="order", probability=0.125)]
    found = [pb.Classification(scores=scores), pb.Classification(value=12.5)]
    assert list(rows(["money back", "x" * 80], found)) == [
        ("money back", "refund 87.5%, order 12.5%"),
        ("x" * 57 + "...", "12.5"),
    ]
