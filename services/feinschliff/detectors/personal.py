"""Personal data that has a form: addresses for mail and machines, numbers of phones, accounts and cards."""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Mapping, Sequence

from feinschliff.detectors.rule import Rule, bounded

_ALNUM = string.ascii_letters + string.digits
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DATE = re.compile(r"\d{1,2}[-/. ]\d{1,2}[-/. ]\d{2,4}|\d{4}[-/. ]\d{1,2}[-/. ]\d{1,2}")
_IBAN_COUNTRIES = """
NO15 BE16 DK18 FI18 FO18 GL18 NL18 SD18 MK19 SI19 AT20 BA20 EE20 KZ20 LT20 LU20 MN20 XK20 CH21 CR21 HR21 LI21 LV21 BG22
BH22 DE22 GB22 GE22 IE22 ME22 RS22 VA22 AE23 GI23 IL23 IQ23 OM23 SO23 TL23 AD24 CZ24 ES24 MD24 PK24 RO24 SA24 SE24 SK24
TN24 VG24 LY25 PT25 ST25 IS26 TR26 BI27 DJ27 FR27 GR27 IT27 MC27 MR27 SM27 AL28 AZ28 BY28 CY28 DO28 GT28 HU28 LB28 NI28
PL28 SV28 BR29 EG29 PS29 QA29 UA29 JO30 KW30 MU30 YE30 MT31 SC31 LC32 RU33
"""
_IBAN_LENGTHS: Mapping[str, int] = {one[:2]: int(one[2:]) for one in _IBAN_COUNTRIES.split()}
_CARDS: Sequence[tuple[re.Pattern[str], tuple[int, ...]]] = (
    (re.compile("4"), (13, 16, 19)),
    (re.compile("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile("3[47]"), (15,)),
    (re.compile("3(?:0[0-5]|[689])"), (14, 16)),
    (re.compile("35(?:2[89]|[3-8])"), (16, 17, 18, 19)),
    (re.compile("6(?:011|5|4[4-9]|2)"), (16, 17, 18, 19)),
)


def _is_joined(text: str, at: int) -> bool:
    """Whether a letter, a digit or an underscore stands there."""
    return 0 <= at < len(text) and (text[at].isalnum() or text[at] == "_")


def _phone(text: str, start: int, end: int) -> int | None:
    """7 to 15 digits that are no date and no part of something longer."""
    digits = sum(character.isdigit() for character in text[start:end])
    is_part = _is_joined(text, end) or (start > 0 and (_is_joined(text, start - 1) or text[start - 1] in "+.,-/"))
    if is_part or not 7 <= digits <= 15 or _DATE.fullmatch(text[start:end].strip("()")) is not None:
        return None
    return end


def _iban(text: str, start: int, end: int) -> int | None:
    """Where an account number of its country's length ends, if its checksum is right (ISO 13616)."""
    length, compact = _IBAN_LENGTHS.get(text[start : start + 2].upper(), 0), ""
    for place in range(start, end):
        if text[place] != " ":
            compact += text[place].upper()
        if len(compact) == length:
            turned = compact[4:] + compact[:4]
            is_right = int("".join(str(int(one, 36)) for one in turned)) % 97 == 1
            return place + 1 if is_right and not _is_joined(text, place + 1) else None
    return None


def _card(text: str, start: int, end: int) -> int | None:
    """Where a card's number of its brand's length ends, if its check digit is right (ISO/IEC 7812)."""
    places = [place for place in range(start, end) if text[place].isdigit()]
    number = "".join(text[place] for place in places)
    lengths = sorted({length for begin, fits in _CARDS if begin.match(number) for length in fits}, reverse=True)
    for length in lengths:
        if length <= len(places) and not _is_joined(text, places[length - 1] + 1) and _luhn(number[:length]):
            return places[length - 1] + 1
    return None


def _luhn(number: str) -> bool:
    if len(set(number)) == 1:
        return False
    odd, even = number[-1::-2], number[-2::-2]
    return (sum(map(int, odd)) + sum(sum(divmod(2 * int(digit), 10)) for digit in even)) % 10 == 0


def _ip4(text: str, start: int, end: int) -> int | None:
    is_longer = text[end : end + 1] == "." and text[end + 1 : end + 2].isdigit()
    if is_longer or (start and text[start - 1] in ".-"):
        return None
    return end if all(int(part) <= 255 for part in text[start:end].split(".")) else None


def _ip6(text: str, start: int, end: int) -> int | None:
    if _is_joined(text, end) or (start and (_is_joined(text, start - 1) or text[start - 1] == ":")):
        return None
    try:
        ipaddress.IPv6Address(text[start:end])
    except ValueError:
        return None
    return end if any(character.isdigit() for character in text[start:end]) else None


def _rules() -> Mapping[str, Sequence[Rule]]:
    local = r"\b[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_%+-])?"
    email = bounded("email", rf"{local}@(?:{_LABEL}\.){{1,8}}[A-Za-z]{{2,24}}\b", alphabet=_ALNUM + "._%+-@")
    gap, numbers = r"[ ./()-]{0,2}", string.digits + " +()-./"
    phones = (
        bounded("phone", rf"\+[1-9](?:{gap}\d){{6,14}}", alphabet=numbers, check=_phone),
        bounded("phone", r"\b0\d(?:[ /()-]{0,2}\d){5,13}", alphabet=numbers, check=_phone),
        bounded("phone", r"\(?\b[2-9]\d{2}(?:\) ?|[-. ])\d{3}[-. ]\d{4}\b", alphabet=numbers, check=_phone),
    )
    ibans = (
        bounded(
            "iban",
            r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}",
            alphabet=string.ascii_uppercase + "0123456789 ",
            check=_iban,
        ),
        bounded("iban", r"\b[a-z]{2}\d{2}[a-z0-9]{11,30}", alphabet=_ALNUM, check=_iban),
    )
    ips = (
        bounded("ip", r"\b(?:\d{1,3}\.){3}\d{1,3}\b", alphabet=string.digits + ".", check=_ip4),
        bounded("ip", r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}", alphabet=string.hexdigits + ":", check=_ip6),
    )
    card = bounded("card", r"\b\d(?:[ -]?\d){12,18}", alphabet=string.digits + " -", check=_card)
    return {"email": (email,), "phone": phones, "iban": ibans, "card": (card,), "ip": ips}


RULES = _rules()
KINDS = tuple(RULES)
UNSERVED_KINDS = ("person", "address")
"""Names and postal addresses have no form that a rule could know them by; it takes a model that recognises them."""
