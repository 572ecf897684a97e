"""Words by which a text tries to command the model instead of asking it: curated patterns, in sets.

They catch the phrases that attacks are known by, in English and German; a text that says the same otherwise passes.
A model as a guard sees more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feinschliff.detectors.rule import Rule, bounded

_S = r"[\s,:;\"'*_-]{1,4}"  # between two words
_FEW = rf"(?:[\w']{{1,16}}{_S}){{0,3}}"  # up to three words in between
_RULES_OF = (
    "(?:instructions?|rules|guidelines|prompts?|directives|constraints|restrictions|programming|commands|training)"
)
_FILL = rf"(?:(?:all|any|every|of|the|you|these|those|please|now|just|about|completely|entirely){_S}){{0,4}}"
_OLD = "(?:previous|prior|above|earlier|preceding|foregoing|former|original|initial|existing|system|your)"
_REGELN = "(?:anweisungen|anweisung|regeln|vorgaben|instruktionen|befehle|richtlinien|einschränkungen)"


def _set(name: str, *patterns: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple(bounded(name, f"(?i:{rest})", lead=f"(?i:{lead})") for lead, rest in patterns)


_PRETEND = r"\b(?:act as|pretend (?:to be|you are|that you are)|you are now|from now on you are|roleplay as|simulate)"
_SHOW = r"\b(?:repeat|print|reveal|show|output|display|tell me|give me|leak|dump|copy|write out|recite|translate)\b"

SETS: Mapping[str, Sequence[Rule]] = {
    "override": _set(
        "override",
        (
            r"\b(?:ignore|disregard|forget|override|bypass|neglect|discard|skip|violate)\b",
            rf"{_S}{_FILL}(?:{_OLD}{_S}{_FEW}|(?:the|all|these|those|any){_S}){_RULES_OF}\b",
        ),
        (r"\bforget\b", rf"{_S}(?:everything|all|anything){_S}(?:you|that|i|we|above|before)\b"),
        (
            r"\b(?:do not|don't|stop)\b",
            rf"{_S}(?:follow|obey|obeying|following){_S}{_FILL}(?:{_OLD}{_S})?{_RULES_OF}\b",
        ),
        (r"\b(?:your )?new instructions?\b", rf"{_S}(?:are|is|from now|follow|below)\b"),
        (
            r"\b(?:ignorier|ignoriere|ignorieren sie|vergiss|vergessen sie|missachte|missachten sie|umgehe)\b",
            rf"{_S}{_FEW}{_REGELN}\b",
        ),
    ),
    "jailbreak": _set(
        "jailbreak",
        (
            r"\b(?:do anything now|(?:dan|developer|jailbreak|god|sudo|evil|unfiltered) mode)",
            r"\b",
        ),
        (_PRETEND, rf"{_S}{_FEW}(?:dan|unrestricted|unfiltered|uncensored|jailbroken|amoral|unethical|evil)\b"),
        (
            r"\b(?:without|no|free of|free from)\b",
            rf"{_S}(?:any{_S})?(?:(?:ethical|moral|safety|content){_S}{_FEW}"
            r"(?:restrictions?|guidelines|limits|limitations|filters?|constraints|rules|policies|guardrails)"
            r"|(?:filters?|guardrails|censorship))\b",
        ),
        (
            r"\b(?:disable|turn off|remove|bypass|deactivate|switch off|evade)\b",
            rf"{_S}{_FEW}(?:safety|content|ethical|moderation|security){_S}(?:filters?|guidelines|settings|checks"
            r"|protocols|policies|policy|guardrails|mechanisms|restrictions?)\b",
        ),
        (
            r"\b(?:you|ai|model|assistant)\b",
            rf"{_S}{_FEW}(?:has|have){_S}(?:been{_S})(?:jailbroken|freed|unlocked|liberated)\b",
        ),
        (
            r"\brespond\b|\banswer\b|\breply\b",
            rf"{_S}{_FEW}(?:as|like){_S}(?:dan|an unfiltered|an uncensored|an evil)\b",
        ),
    ),
    "prompt_leak": _set(
        "prompt_leak",
        (
            _SHOW,
            rf"{_S}{_FEW}(?:system|initial|original|hidden|secret|developer|full|entire|exact|internal){_S}"
            rf"{_FEW}(?:prompts?|instructions?|message|messages|guidelines)\b",
        ),
        (_SHOW, rf"{_S}{_FEW}your{_S}(?:prompt|instructions|rules|guidelines)\b"),
        (
            r"\bwhat\b",
            rf"(?:{_S}|'s )(?:(?:is|are|was|were){_S})?your{_S}(?:system|initial|original|hidden){_S}"
            r"(?:prompts?|instructions?)\b",
        ),
        (_SHOW, rf"{_S}{_FEW}(?:words|text|everything|lines|all){_S}(?:above|before{_S}this)\b"),
        (
            r"\b(?:zeig|zeige|gib|nenne|verrate|wiederhole)\b",
            rf"{_S}{_FEW}(?:system-?prompt|systemnachricht|systemanweisungen?)\b",
        ),
    ),
    "role_markers": _set(
        "role_markers",
        (r"<\|", r"[a-z_]{2,24}\|>"),
        (r"\[/?", r"inst\]"),
        (r"<</?", r"sys>>"),
        (r"</?", r"(?:system|assistant)(?:_prompt|_message)?>"),
        (r"<(?:start|end)_of_", r"turn>"),
        (r"#{2,4} ?", r"(?:system|instruction|assistant)(?: prompt)?:"),
    ),
}
NAMES = tuple(SETS)
