"""`generate` of transformers on one padded batch; a program that prints its streams as JSON."""

import argparse
import json
import resource
import time

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList


class Clock(StoppingCriteria):
    """Writes down when each token was there, and never stops."""

    def __init__(self):
        self.times = []

    def __call__(self, input_ids, scores, **kwargs):
        self.times.append(time.time())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "prompts", "precision"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--answer", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(2)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.precision]
    model = AutoModelForCausalLM.from_pretrained(options.base, dtype=dtype).eval()
    with open(options.prompts, encoding="utf-8") as file:
        rounds = json.load(file)
    for prompts in [rounds[0][:1], *rounds[: options.rounds]]:
        ids, clock, asked = torch.tensor(prompts), Clock(), time.time()
        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=options.answer,
                max_new_tokens=options.answer,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        print(json.dumps({"asked": asked, "pieces": clock.times, "rows": len(prompts), "rss": _rss()}), flush=True)


def _rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
