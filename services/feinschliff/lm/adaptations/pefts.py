"""The parts of PEFT that are used here, imported without bitsandbytes beside them.

PEFT imports it wherever it is installed, for layers that are not used here, at the price of a second and 40 MB. Asked
while it is hidden, PEFT takes it for absent and remembers that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

HIDDEN = "bitsandbytes"


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    known = name in sys.modules
    module = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say that there is none
    try:
        yield
    finally:
        del sys.modules[name]
        if known and module is not None:
            sys.modules[name] = module


with _hidden(HIDDEN):
    from peft import (
        IA3Config,
        LoraConfig,
        PeftConfig,
        PeftModel,
        PrefixTuningConfig,
        PromptEncoderConfig,
        PromptTuningConfig,
        TaskType,
        get_peft_model,
        set_peft_model_state_dict,
    )
    from peft.import_utils import is_bnb_4bit_available, is_bnb_available
    from peft.tuners.lora.layer import Linear as LoraLinear

    is_bnb_available()
    is_bnb_4bit_available()

__all__ = [
    "IA3Config",
    "LoraConfig",
    "LoraLinear",
    "PeftConfig",
    "PeftModel",
    "PrefixTuningConfig",
    "PromptEncoderConfig",
    "PromptTuningConfig",
    "TaskType",
    "get_peft_model",
    "set_peft_model_state_dict",
]
