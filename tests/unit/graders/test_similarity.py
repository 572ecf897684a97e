"""Similarity equals the reference libraries': sacrebleu, NLTK, rouge-score and rapidfuzz, pair by pair."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import pytest
import sacrebleu
from nltk.stem.porter import PorterStemmer
from nltk.translate.gleu_score import sentence_gleu
from nltk.translate.meteor_score import single_meteor_score
from rapidfuzz import fuzz
from rouge_score.rouge_scorer import RougeScorer

from feinschliff.graders.similarity.porter import stem
from feinschliff.graders.similarity.tokens import words_13a
from feinschliff.graders.text_similarity import METRICS, cosine_of

PAIRS = 200
WORDS = [
    *("the", "a", "an", "of", "to", "in", "and", "or", "not", "is", "are", "was", "were", "be", "being", "been", "has"),
    *("policy", "policies", "refund", "refunded", "refunding", "refunds", "return", "returned", "returning", "happy"),
    *("happily", "happiness", "run", "running", "runs", "nation", "national", "nationally", "rational", "relational"),
    *("conditional", "organise", "organization", "organizer", "quickly", "quick", "slow", "slowly", "die", "died"),
    *("dying", "lie", "lying", "sky", "skies", "news", "proceed", "succeed", "agreed", "feed", "plastered", "motoring"),
    *("hopping", "falling", "filing", "controlling", "customer's", "customers'", "e-mail", "3.14", "1,000", "50%"),
    *("$20", "(see)", '"quoted"', "well-known", "U.S.", "don't", "can't", "über", "Straße", "日本", "don", "&", "<b>"),
]
SUFFIXES = [
    *("ational", "tional", "enci", "anci", "izer", "bli", "alli", "entli", "eli", "ousli", "ization", "ation", "ator"),
    *("alism", "iveness", "fulness", "ousness", "aliti", "iviti", "biliti", "fulli", "logi", "icate", "ative", "alize"),
    *("iciti", "ical", "ful", "ness", "ies", "ied", "eed", "ed", "ing", "sses", "s", "y", "yyy", "ll", "e", "ement"),
    *("ion", "sion", "tion"),
]


class Pair(NamedTuple):
    answer: str
    reference: str


@cache
def pairs() -> list[Pair]:
    """Near and far, short and long; some equal, some empty on the answer's side."""
    draw = random.Random(20_240)
    return [_pair(draw, number) for number in range(PAIRS)]


def _pair(draw: random.Random, number: int) -> Pair:
    reference = draw.choices(WORDS, k=draw.choice((1, 2, 3, 5, 8, 13, 30)))
    answer = list(reference)
    for _ in range(draw.choice((0, 1, 1, 2, 5, 20))):
        place = draw.randrange(len(answer) + 1)
        change = draw.choice(("drop", "add", "swap", "case"))
        if change == "add" or not answer:
            answer.insert(place, draw.choice(WORDS))
        elif change == "drop":
            answer.pop(place - 1)
        elif change == "swap":
            draw.shuffle(answer)
        else:
            answer[place - 1] = answer[place - 1].upper()
    marks = draw.choice((" ", " ", ", ", ". ", "\n", "-\n"))
    return Pair(marks.join(answer) if number % 25 else "", " ".join(reference) + draw.choice(("", ".", "!", " \n")))


class NoSynonyms:
    """WordNet without its data, which the platform does not bring: no word has another of the same meaning."""

    def synsets(self, word: str) -> list[object]:
        return []


def _bleu(pair: Pair) -> float:
    return float(sacrebleu.sentence_bleu(pair.answer, [pair.reference]).score) / 100


def _gleu(pair: Pair) -> float:
    return float(sentence_gleu([words_13a(pair.reference)], words_13a(pair.answer)))


def _meteor(pair: Pair) -> float:
    wordnet = NoSynonyms()
    return float(single_meteor_score(words_13a(pair.reference), words_13a(pair.answer), wordnet=wordnet))


def _rouge(pair: Pair, name: str) -> float:
    return float(RougeScorer([name]).score(pair.reference, pair.answer)[name].fmeasure)


REFERENCES: dict[str, Callable[[Pair], float]] = {
    "fuzzy_match": lambda pair: fuzz.ratio(pair.answer, pair.reference) / 100,
    "bleu": _bleu,
    "gleu": _gleu,
    "meteor": _meteor,
    **{f"rouge_{n}": partial(_rouge, name=f"rouge{n}") for n in range(1, 6)},
    "rouge_l": partial(_rouge, name="rougeL"),
}


@pytest.mark.parametrize("metric", METRICS)
def test_every_pair_has_the_value_of_the_library(metric: str) -> None:
    graded = 0
    for pair in pairs():
        value, wanted = METRICS[metric](pair.answer, pair.reference), REFERENCES[metric](pair)
        if value is None:
            assert wanted == 0.0, pair
            continue
        graded += 1
        assert value == pytest.approx(wanted, abs=1e-9), pair
        assert 0.0 <= value <= 1.0 + 1e-12
    assert graded > PAIRS // 3


def test_the_pairs_tell_metrics_apart() -> None:
    """Else equality over them would show little."""
    values = {name: {round(METRICS[name](*pair) or 0, 3) for pair in pairs()} for name in METRICS}
    assert all(len(seen) > 20 for seen in values.values()), {name: len(seen) for name, seen in values.items()}


def test_words_are_split_as_sacrebleu_splits_them() -> None:
    tokenizer = sacrebleu.BLEU().tokenizer
    for text in (text for pair in pairs() for text in pair):
        assert words_13a(text) == tokenizer(text.rstrip()).split()


def test_stems_are_those_of_nltk() -> None:
    draw, theirs = random.Random(7), PorterStemmer()
    words = {word.lower().strip(".,") for word in WORDS} | {word.lower() + end for word in WORDS for end in SUFFIXES}
    words |= {
        "".join(draw.choices("aeiouybcdlstgzrw", k=draw.randint(1, 8))) + draw.choice(SUFFIXES) for _ in range(3000)
    }
    different = {word: (stem(word), theirs.stem(word)) for word in words if stem(word) != theirs.stem(word)}
    assert not different


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ([1.0, 0.0], [1.0, 0.0], 1.0),
        ([2.0, 0.0], [0.0, 3.0], 0.0),
        ([1.0, 1.0], [-1.0, -1.0], -1.0),
        ([3.0, 4.0], [4.0, 3.0], 0.96),
        ([0.0, 0.0], [1.0, 0.0], None),
        ([1.0], [1.0, 0.0], None),
        ([float("nan"), 1.0], [1.0, 0.0], None),
        ([float("inf"), 1.0], [1.0, 0.0], None),
    ],
)
def test_a_cosine_needs_two_directions(first: list[float], second: list[float], value: float | None) -> None:
    assert cosine_of(first, second) == (None if value is None else pytest.approx(value))
