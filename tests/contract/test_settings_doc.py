"""docs/settings.md says what the settings classes say, and no variable is missing from it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.differences import differences
from tests.support.settings_doc import SECTIONS, page

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "services" / "feinschliff"
PAGE = ROOT / "docs" / "settings.md"
VARIABLE = re.compile(r"FEINSCHLIFF_[A-Z0-9_]*[A-Z0-9]")


def test_the_page_is_what_the_settings_classes_say() -> None:
    found = differences(PAGE.read_text("utf-8"), page())
    assert not found, f"run `python -m tests.support.settings_doc > docs/settings.md`:\n{found}"


def test_every_settings_module_has_its_section() -> None:
    modules = {f"feinschliff.{path.parent.name}.settings" for path in SOURCES.glob("*/settings.py")}
    assert {section.settings.__module__ for section in SECTIONS} == modules


def test_no_source_names_a_variable_that_the_page_lacks() -> None:
    known = set(VARIABLE.findall(page()))
    unknown = {
        f"{name} ({path.relative_to(ROOT)})"
        for path in SOURCES.rglob("*.py")
        for name in VARIABLE.findall(path.read_text("utf-8"))
        if name not in known
    }
    assert not unknown


def test_no_secret_is_shown_with_a_default() -> None:
    secrets = [
        line for line in page().splitlines() if re.match(r"\| `\w+_(SECRET_KEY|TOKEN|API_KEYS|PASSWORD)` ", line)
    ]
    assert secrets
    assert all("| (secret) |" in line for line in secrets)
