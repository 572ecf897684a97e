"""Porter's stemmer with NLTK's extensions (Porter 1980; NLTK's `PorterStemmer`, Apache 2.0): equal stem by stem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

_IRREGULAR = {
    form: stem
    for stem, forms in {
        "sky": "sky skies",
        "die": "dying",
        "lie": "lying",
        "tie": "tying",
        "news": "news",
        "inning": "innings inning",
        "outing": "outings outing",
        "canning": "cannings canning",
        "howe": "howe",
        "proceed": "proceed",
        "exceed": "exceed",
        "succeed": "succeed",
    }.items()
    for form in forms.split()
}
_STEP_2 = (
    *(("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble")),
    *(("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate")),
    *(("ator", "ate"), ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al")),
    *(("iviti", "ive"), ("biliti", "ble"), ("fulli", "ful")),
)
_STEP_3 = (
    *(("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")),
)
_STEP_4 = (
    *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate"),
    *("iti", "ous", "ive", "ize"),
)
Condition = Callable[[str], bool]


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The stem of a word in small letters."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    for step in (_plural, _past, _final_y, _step_2, _step_3, _step_4, _final_e, _double_l):
        word = step(word)
    return word


def _consonants(word: str) -> list[bool]:
    """For each letter whether it is one; `y` is one at the start and behind a vowel."""
    flags: list[bool] = []
    for letter in word:
        flags.append(not (bool(flags) and flags[-1]) if letter == "y" else letter not in "aeiou")
    return flags


def _measure(word: str) -> int:
    """How often a consonant follows a vowel."""
    flags = _consonants(word)
    return sum(not before and now for before, now in pairwise(flags))


def _is_positive(word: str) -> bool:
    return _measure(word) > 0


def _has_vowel(word: str) -> bool:
    return not all(_consonants(word))


def _ends_double(word: str) -> bool:
    return len(word) >= 2 and word[-1] == word[-2] and _consonants(word)[-1]


def _ends_short(word: str) -> bool:
    """Consonant, vowel, consonant at the end, the last not w, x or y; or vowel and consonant, which is NLTK's."""
    flags = _consonants(word)
    if len(word) == 2:
        return flags == [False, True]
    return len(word) >= 3 and flags[-3:] == [True, False, True] and word[-1] not in "wxy"


def _replaced(word: str, rules: Sequence[tuple[str, str]], condition: Condition) -> str:
    """By the first rule whose suffix the word has, if the rest meets the condition."""
    for suffix, by in rules:
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            return rest + by if condition(rest) else word
    return word


def _plural(word: str) -> str:
    if word.endswith("ies") and len(word) == 4:
        return word[:-1]
    return _replaced(word, (("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")), lambda rest: True)


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _is_positive(word[:-3]) else word
    for suffix in ("ed", "ing"):
        rest = word[: -len(suffix)]
        if word.endswith(suffix) and _has_vowel(rest):
            return _mended(rest)
    return word


def _mended(rest: str) -> str:
    """What the cut of -ed or -ing left: `conflat` gets its e back, `hopp` loses a p."""
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if _ends_double(rest):
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _ends_short(rest) else rest


def _final_y(word: str) -> str:
    is_changed = word.endswith("y") and len(word) > 2 and _consonants(word[:-1])[-1]
    return word[:-1] + "i" if is_changed else word


def _step_2(word: str) -> str:
    if word.endswith("alli") and _is_positive(word[:-4]):
        return _step_2(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _is_positive(word[:-3]) else word
    return _replaced(word, _STEP_2, _is_positive)


def _step_3(word: str) -> str:
    return _replaced(word, _STEP_3, _is_positive)


def _step_4(word: str) -> str:
    suffix = next((suffix for suffix in _STEP_4 if word.endswith(suffix)), None)
    if suffix is None:
        return word
    rest = word[: -len(suffix)]
    is_cut = _measure(rest) > 1 and (suffix != "ion" or rest[-1] in "st")
    return rest if is_cut else word


def _final_e(word: str) -> str:
    if not word.endswith("e"):
        return word
    rest = word[:-1]
    return rest if _measure(rest) > 1 or (_measure(rest) == 1 and not _ends_short(rest)) else word


def _double_l(word: str) -> str:
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
