"""Conversations whose answers repeat what was given: to say a text again with a change, to take things out of it."""

from __future__ import annotations

import random

ANSWER_TOKENS = 96
_PLACES = ["harbour", "library", "station", "museum", "market hall", "old mill", "town hall", "observatory"]
_PEOPLE = ["Maria Lindqvist", "Tomasz Zielinski", "Aisha Rahman", "Daniel Okafor", "Ingrid Solberg", "Paulo Mendes"]
_SENTENCES = [
    "The {place} on the north side of the river was opened by {person} on the {day} of May {year}.",
    "It cost about {number} thousand crowns, most of which came from a fund that {person} had set up.",
    "For the first {day} years the building was used by {number} visitors a month, and then it stood empty.",
    "In {year} a fire destroyed the roof of the {place}, and {person} asked the council for help.",
    "The council paid for a new roof made of copper, which was finished {day} months later.",
    "Since {year} the {place} has been looked after by a group of {number} volunteers led by {person}.",
]


def repeat(seed: int) -> str:
    """To say a text again with one word changed."""
    chosen = random.Random(seed)
    place = chosen.choice(_PLACES)
    return f"Repeat the following text exactly, only write bridge in place of {place}.\n\n{_text(chosen, place)}"


def extract(seed: int) -> str:
    """To take sentences out of a text."""
    chosen = random.Random(seed)
    text = _text(chosen, chosen.choice(_PLACES))
    return f"{text}\n\nList every sentence of this text that names a year, with the year and the person."


def _text(chosen: random.Random, place: str) -> str:
    return " ".join(
        sentence.format(
            place=place,
            person=chosen.choice(_PEOPLE),
            day=chosen.randrange(3, 28),
            year=chosen.randrange(1850, 1990),
            number=chosen.randrange(20, 900),
        )
        for sentence in _SENTENCES
    )
