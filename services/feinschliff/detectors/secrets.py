"""Secrets: keys and tokens of well-known services by their form, private keys, what is assigned, what looks drawn."""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from feinschliff.detectors.rule import Hit, Rule, Scan, Window, bounded, compiled

PRIVATE_KEY_CHARACTERS_MAX = 16_384
ENTROPY_BITS_MIN = 4.3
"""Of one character of a drawn token, at least; 32 characters of prose run together have below 4.1, hex 4 at most."""
_NAME = string.ascii_letters + string.digits + "_-"
_BASE64 = string.ascii_letters + string.digits + "+/=_-"
_PRINTABLE = string.ascii_letters + string.digits + string.punctuation
_HEADER = r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_FOOTER = r"-----END (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_MARK = "-----BEGIN "
_HEADER_CHARACTERS_MAX = 96
_PLACEHOLDERS = ("example", "your", "xxx", "changeme", "placeholder", "<", "${", "{{", "***", "...")


@dataclass(frozen=True)
class PrivateKeys:
    """Whole blocks from their first line to their last; one that does not end has `PRIVATE_KEY_CHARACTERS_MAX`."""

    name: str = "private_key"

    def scan(self, window: Window) -> Scan:
        text, at, is_whole, _ = window
        hits: list[Hit] = []
        while (begin := text.find(_MARK, at)) >= 0:
            header = _HEADERS.match(text, begin, begin + _HEADER_CHARACTERS_MAX)
            if header is None:
                if not is_whole and len(text) < begin + _HEADER_CHARACTERS_MAX:
                    return Scan(hits, begin)
                at = begin + 1
                continue
            limit = begin + PRIVATE_KEY_CHARACTERS_MAX
            footer = _FOOTERS.search(text, header.end(), limit)
            if footer is None and not is_whole and len(text) < limit:
                return Scan(hits, begin)
            at = footer.end() if footer else min(limit, len(text))
            hits.append(Hit(begin, at, self.name))
        return Scan(hits, len(text) if is_whole else max(at, len(text) - len(_MARK) + 1))


_HEADERS, _FOOTERS = compiled(_HEADER), compiled(_FOOTER)


def _drawn(text: str, start: int, end: int) -> int | None:
    """Letters of both cases and digits in an order that no language has."""
    token = text[start:end].rstrip("=")
    is_part = (start > 0 and text[start - 1] in _BASE64) or text[end : end + 1] in tuple(_BASE64)
    kinds = (str.islower, str.isupper, str.isdigit)
    if is_part or not all(any(map(kind, token)) for kind in kinds):
        return None
    return end if _entropy_bits(token) >= ENTROPY_BITS_MIN else None


def _entropy_bits(token: str) -> float:
    """Of one character, by how often each occurs (Shannon)."""
    shares = [count / len(token) for count in Counter(token).values()]
    return -sum(share * math.log2(share) for share in shares)


def _assigned(text: str, start: int, end: int) -> int | None:
    """A value with a digit and a letter that does not stand for another one."""
    value = text[start:end].lower()
    is_mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return end if is_mixed and not any(mark in value for mark in _PLACEHOLDERS) else None


def _not_anthropic(text: str, start: int, end: int) -> int | None:
    return None if text.startswith("sk-ant-", start) else end


def _rules() -> Mapping[str, Sequence[Rule]]:
    assigned = (
        r"(?i:\b(?:[a-z0-9]{1,24}[_-]){0,3}"
        r"(?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|auth[_-]?key|private[_-]?key))"
    )
    value = r"[\"']?[ \t]{0,4}(?::=|=>|[:=])[ \t]{0,4}[\"']?([A-Za-z0-9!#$%&*+./:?@^_~=-]{8,200})"
    url = r"\b[A-Za-z][A-Za-z0-9+.-]{1,24}://[!-.0-9;-?A-~]{0,100}:([!-.0-9;-?A-~]{3,200})@"
    jwt = r"\beyJ[A-Za-z0-9_-]{8,1000}\.eyJ[A-Za-z0-9_-]{4,1000}\.[A-Za-z0-9_-]{8,1000}"
    return {
        "aws": (bounded("aws", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", alphabet=_NAME),),
        "github": (
            bounded("github", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b", alphabet=_NAME),
            bounded("github", r"\bgithub_pat_[A-Za-z0-9_]{22,255}\b", alphabet=_NAME),
        ),
        "gitlab": (bounded("gitlab", r"\bglpat-[A-Za-z0-9_-]{20,64}", alphabet=_NAME),),
        "openai": (bounded("openai", r"\bsk-[A-Za-z0-9_-]{20,255}", alphabet=_NAME, check=_not_anthropic),),
        "anthropic": (bounded("anthropic", r"\bsk-ant-[A-Za-z0-9_-]{20,255}", alphabet=_NAME),),
        "slack": (bounded("slack", r"\bxox[abeposr]-[A-Za-z0-9-]{10,250}", alphabet=_NAME),),
        "stripe": (bounded("stripe", r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,247}\b", alphabet=_NAME),),
        "google": (bounded("google", r"\bAIza[A-Za-z0-9_-]{35}", alphabet=_NAME),),
        "huggingface": (bounded("huggingface", r"\bhf_[A-Za-z0-9]{30,64}\b", alphabet=_NAME),),
        "package_index": (
            bounded("package_index", r"\bnpm_[A-Za-z0-9]{36}\b", alphabet=_NAME),
            bounded("package_index", r"\bpypi-AgE[A-Za-z0-9_-]{50,500}", alphabet=_NAME),
        ),
        "jwt": (bounded("jwt", jwt, alphabet=_NAME + "."),),
        "private_key": (PrivateKeys(),),
        "url_password": (bounded("url_password", url, group=1, alphabet=_PRINTABLE),),
        "assigned": (bounded("assigned", value, lead=assigned, group=1, check=_assigned),),
        "high_entropy": (bounded("high_entropy", r"\b[A-Za-z0-9+/_-]{32,256}={0,2}", alphabet=_BASE64, check=_drawn),),
    }


RULES = _rules()
KINDS = tuple(RULES)
