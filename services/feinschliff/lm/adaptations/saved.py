"""Which adaptation wrote a folder of weights, so that no other one reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import orjson

from feinschliff.formats.base import Stored
from feinschliff.kit.errors import WrongState

SETTINGS_NAME = "adaptation.json"
PEFT_SETTINGS_NAME = "adapter_config.json"

PROMPT_KINDS = {"PROMPT_TUNING": "prompt", "P_TUNING": "p_tuning", "PREFIX_TUNING": "prefix"}

SettingsT = TypeVar("SettingsT", bound=Stored)


def write_settings(folder: Path, settings: Stored) -> None:
    """For the kinds that have no file format but ours, and for what PEFT's has no place for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_NAME).write_bytes(orjson.dumps(settings.model_dump(), option=orjson.OPT_SORT_KEYS))


def read_settings(folder: Path, kind: type[SettingsT]) -> SettingsT:
    return kind.model_validate_json((folder / SETTINGS_NAME).read_bytes())


def kind_of(folder: Path) -> str:
    """The recipe's name of the adaptation that wrote the folder; `unknown` where nothing tells."""
    if (folder / SETTINGS_NAME).is_file():
        return str(orjson.loads((folder / SETTINGS_NAME).read_bytes()).get("kind", "unknown"))
    if not (folder / PEFT_SETTINGS_NAME).is_file():
        return "unknown"
    settings = orjson.loads((folder / PEFT_SETTINGS_NAME).read_bytes())
    if settings.get("peft_type") == "LORA":
        return "dora" if settings.get("use_dora") else "lora"
    kind = str(settings.get("peft_type", "unknown"))
    return PROMPT_KINDS.get(kind, kind.lower())


def refuse_another_kind(folder: Path, kind: str) -> None:
    """
    Raises:
        WrongState: ADAPTATION_DIFFERS.
    """
    found = kind_of(folder)
    if found != kind:
        raise WrongState(
            "ADAPTATION_DIFFERS",
            f"The version to continue from was made by `{found}`; it cannot be trained on as `{kind}`.",
            advice=["Ask for the version's own adaptation, or start from the base model."],
            found=found,
            wanted=kind,
        )
