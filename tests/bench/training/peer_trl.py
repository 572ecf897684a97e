"""TRL's SFTTrainer on given tokens and labels; a program for a peer's own environment."""

import argparse
import json
import time

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


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
    for name in ("base", "tokens", "steps", "out", "precision", "work"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    with open(options.tokens, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    clock = Clock()
    trainer(options, rows, clock).train()
    with open(options.out, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in clock.lines)


def trainer(options, rows, clock):
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    settings = SFTConfig(
        output_dir=options.work,
        per_device_train_batch_size=8,
        max_steps=int(options.steps),
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        max_length=512,
        logging_steps=1,
        logging_first_step=True,
        save_strategy="no",
        report_to="none",
        train_sampling_strategy="sequential",
        # On by default; it trades speed for memory, and speed is what is compared.
        gradient_checkpointing=False,
        bf16=options.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        seed=0,
    )
    return SFTTrainer(
        # The tool's own bf16 flag keeps weights in fp32 and multiplies in bf16.
        model=AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(options.base),
        train_dataset=Dataset.from_list(rows),
        peft_config=lora,
        callbacks=[clock],
        args=settings,
    )


if __name__ == "__main__":
    main()
