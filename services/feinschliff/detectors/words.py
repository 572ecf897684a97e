"""Words and phrases as whole words, in any case of letters; and lists of them that come with the platform."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from feinschliff.detectors.rule import Rule, bounded

_BETWEEN_WORDS = r"[\s_-]{1,4}"
_END = r"(?:[^\pL\pN_]|\z)"
_ANY_ENDING = r"[A-Za-z\x{80}-\x{10FFFF}]{0,16}"
_COMPILED_BYTES_MAX = 8 << 20


def _begins_a_word(text: str, start: int, end: int) -> int | None:
    return None if start and (text[start - 1].isalnum() or text[start - 1] == "_") else end


def words_rule(name: str, words: Iterable[str]) -> Rule:
    """One rule for all words: each is found where no letter, digit or underscore stands beside it.

    A blank within a phrase stands for up to four blanks, hyphens or underscores; `*` behind a word for any ending up to
    16 letters.

    Raises:
        PatternError: the words together are too much for one automaton.
    """
    longest_first = sorted({word.strip() for word in words}, key=lambda word: (-len(word), word))
    pattern = rf"(?i)({'|'.join(map(_form, longest_first))}){_END}"
    return bounded(name, pattern, group=1, check=_begins_a_word, bytes_max=_COMPILED_BYTES_MAX)


def _form(word: str) -> str:
    stem, is_open = (word[:-1], True) if word.endswith("*") else (word, False)
    form = _BETWEEN_WORDS.join(_quoted(part) for part in stem.split())
    border = r"\b" if re.match(r"[A-Za-z0-9_]", stem) else ""
    return border + form + (_ANY_ENDING if is_open else "")


def _quoted(part: str) -> str:
    return "".join(one if one.isalnum() or ord(one) > 127 else f"\\{one}" for one in part)


_INSULTS = """
idiot* moron* imbecile* retard* dumbass* dipshit* asshole* arsehole* bastard* bitch* cunt* wanker* douchebag* scumbag*
motherfucker* fucker* shithead* dickhead* cocksucker* whore* slut* trottel* vollidiot* arschloch wichser* hurensohn
missgeburt schlampe* spast* mistkerl
"""
_SLURS = """
nigger* nigga* kike* spic spics gook gooks wetback* faggot* tranny trannies raghead* towelhead* paki pakis kanake*
neger* schwuchtel*
"""
_SEXUAL = """
porn* blowjob* handjob* cumshot* gangbang* masturbat* dildo* deepthroat* creampie* bukkake hentai milf milfs orgasm*
ejaculat* pussy titties boobs nudes titten muschi
"""

LISTS: Mapping[str, Sequence[str]] = {
    "harassment": (
        *_INSULTS.split(),
        *(
            "piece of shit",
            "fuck you",
            "fuck off",
            "go to hell",
            "shut the fuck up",
            "you are worthless",
            "you are stupid",
        ),
        *("you are pathetic", "nobody likes you", "verpiss dich", "halt die fresse", "fick dich", "du bist dumm"),
    ),
    "hate": (
        *_SLURS.split(),
        *(
            "white power",
            "heil hitler",
            "sieg heil",
            "gas the jews",
            "race traitor",
            "ethnic cleansing now",
            "subhuman*",
        ),
    ),
    "threat": (
        *("i will kill you", "i'll kill you", "i am going to kill you", "i'm going to kill you", "gonna kill you"),
        *("i will hurt you", "i'll hurt you", "i will find you", "you will die", "i will shoot you", "i'll shoot you"),
        *("i will stab you", "i will beat you", "watch your back", "you're dead meat", "you are dead meat"),
        *("ich bringe dich um", "ich töte dich", "ich mach dich fertig", "ich werde dich töten"),
    ),
    "self_harm": (
        *("kill myself", "killing myself", "end my life", "ending my life", "want to die", "wanna die", "suicid*"),
        *("self harm", "self harming", "cut myself", "cutting myself", "hang myself", "hurt myself", "overdose on"),
        *("kill yourself", "kys", "mich umbringen", "bring dich um", "selbstmord*", "suizid*", "mich ritzen"),
    ),
    "sexual": tuple(_SEXUAL.split()),
    "violence": (
        *(
            "behead*",
            "dismember*",
            "massacre*",
            "slaughter*",
            "torture*",
            "gouge out",
            "stab to death",
            "beat to death",
        ),
        *("burn alive", "bomb the", "shoot up the", "school shooting", "mass shooting", "amoklauf", "enthaupt*"),
    ),
}
NAMES = tuple(LISTS)
"""They are words, not meanings: a text about a word has it too, and one that means it without saying it has not."""


def list_rule(name: str) -> Rule:
    """The rule of one of `LISTS`."""
    return words_rule(name, LISTS[name])
