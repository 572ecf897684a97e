"""LLaMA-Factory on given conversations; a program for a peer's own environment."""

import argparse
import json
import os
import sys
import time

from llamafactory.data.formatter import StringFormatter
from llamafactory.data.template import register_template
from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback

TEMPLATE = "bench"


class Clock(TrainerCallback):
    """Writes down when steps begin and end, and their losses."""

    def __init__(self):
        self.lines = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.begin = time.time()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.lines.append({"begin": self.begin, "end": time.time(), "loss": float(logs["loss"])})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "chats", "steps", "out", "precision", "work"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    # The tool reads the command line as well.
    sys.argv = sys.argv[:1]
    use_same_template()
    describe_rows(options)
    clock = Clock()
    run_exp(settings(options), callbacks=[clock])
    with open(options.out, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in clock.lines)


def use_same_template():
    """Its own `smollm2` but for the newline after an answer, which is no label for the other subjects."""
    register_template(
        name=TEMPLATE,
        format_user=StringFormatter(slots=["<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n"]),
        format_assistant=StringFormatter(slots=["{{content}}<|im_end|>"]),
        format_system=StringFormatter(slots=["<|im_start|>system\n{{content}}<|im_end|>\n"]),
        stop_words=["<|im_end|>"],
        default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    )


def describe_rows(options):
    os.makedirs(options.work, exist_ok=True)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages"}
    info = {"rows": {"file_name": options.chats, "formatting": "sharegpt", "columns": columns, "tags": tags}}
    with open(os.path.join(options.work, "dataset_info.json"), "w", encoding="utf-8") as file:
        json.dump(info, file)


def settings(options):
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": options.base,
        "template": TEMPLATE,
        "dataset_dir": options.work,
        "dataset": "rows",
        "finetuning_type": "lora",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_target": "all",
        "cutoff_len": 512,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_steps": int(options.steps),
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "disable_shuffling": True,
        "disable_gradient_checkpointing": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "output_dir": os.path.join(options.work, "out"),
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "bf16": options.precision == "bf16",
        "use_cpu": True,
        "seed": 0,
    }


if __name__ == "__main__":
    main()
