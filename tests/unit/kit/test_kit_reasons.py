"""The kit raises only reasons that its table explains."""

import re
from pathlib import Path

import feinschliff.kit
from feinschliff.kit.errors import BY_CODE, KIT_REASONS

KINDS = "|".join({kind.__name__ for kind in BY_CODE.values()})
RAISED = re.compile(rf'(?:{KINDS}|_refused)\(\s*"([A-Z][A-Z_]+)"')


def test_every_reason_raised_in_the_kit_is_in_the_table() -> None:
    folder = Path(feinschliff.kit.__file__).parent
    raised = {reason for path in folder.rglob("*.py") for reason in RAISED.findall(path.read_text("utf-8"))}
    assert len(raised) > 12, "the search finds them"
    assert raised - set(KIT_REASONS) == set()
