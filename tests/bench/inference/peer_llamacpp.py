"""llama.cpp with parallel sequences, greedy, as its server's slots do it; a program that prints its streams as JSON."""

import argparse
import json
import os
import resource
import time

import llama_cpp
import numpy as np


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("gguf", "f16", "prompts"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--answer", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    with open(options.prompts, encoding="utf-8") as file:
        rounds = json.load(file)
    if not os.path.exists(options.f16):
        widen(options.gguf, options.f16)
    engine = Engine(options.f16, rows=len(rounds[0]), tokens=len(rounds[0][0]) + options.answer)
    for prompts in [rounds[0][:1], *rounds[: options.rounds]]:
        asked = time.time()
        times = engine.answer(prompts, options.answer)
        print(json.dumps({"asked": asked, "pieces": times, "rows": len(prompts), "rss": _rss()}), flush=True)


def widen(gguf, f16):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_F16, True, 2
    if llama_cpp.llama_model_quantize(gguf.encode(), (f16 + ".part").encode(), params):
        raise RuntimeError("llama_model_quantize failed")
    os.replace(f16 + ".part", f16)


class Engine:
    """Prompts are read one after another, then all rows go on together."""

    def __init__(self, gguf, *, rows, tokens):
        llama_cpp.llama_backend_init()
        quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(quiet, None)
        self._quiet = quiet
        self._model = llama_cpp.llama_model_load_from_file(gguf.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = rows * tokens, rows
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 2
        params.kv_unified = False
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)

    def answer(self, prompts, count):
        """Times at which every row had its next token."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        last = []
        for row, prompt in enumerate(prompts):
            self._decode([(token, at, row, at == len(prompt) - 1) for at, token in enumerate(prompt)])
            last.append(self._best(len(prompt) - 1))
        times = [time.time()]
        for at in range(len(prompts[0]), len(prompts[0]) + count - 1):
            self._decode([(token, at, row, True) for row, token in enumerate(last)])
            last = [self._best(row) for row in range(len(last))]
            times.append(time.time())
        return times

    def _decode(self, tokens):
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, (token, at, row, wanted) in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, at, 1
            batch.seq_id[place][0], batch.logits[place] = row, wanted
        if llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")

    def _best(self, place):
        logits = llama_cpp.llama_get_logits_ith(self._context, place)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocabulary,)).argmax())


def _rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
