"""Do models answer, how soon, and is there room for more."""

from __future__ import annotations

from deploy.monitoring.panels import NEEDS_DCGM, NEEDS_GPU, Dashboard, Level, Panel, Query, Row
from deploy.monitoring.promql import quantile, rate

SERVING = Dashboard(
    uid="feinschliff-serving",
    title="Feinschliff / Serving",
    asks="Do models answer, how soon, and is there room for more?",
    refresh="10s",
    rows=(
        Row(
            "Do models answer?",
            (
                Panel(
                    "Requests",
                    "How do requests end? `length` was cut at its longest, `refused` was never begun.",
                    "calls/s",
                    (Query(rate("feinschliff_inference_requests_total", "finish"), "{{finish}}"),),
                    stacked=True,
                ),
                Panel(
                    "Requests over HTTP",
                    "What do applications get?",
                    "calls/s",
                    (
                        Query(
                            rate('feinschliff_gateway_http_requests_total{route="/v1/chat/completions"}', "status"),
                            "{{status}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Deployments",
                    "Is everything loaded that should be?",
                    "count",
                    (Query("max by (state) (feinschliff_inference_deployments)", "{{state}}"),),
                ),
            ),
        ),
        Row(
            "How soon?",
            (
                Panel(
                    "First token",
                    "How long does a reader wait for the first word?",
                    "seconds",
                    (
                        Query(quantile(0.5, "feinschliff_inference_first_token_seconds"), "half"),
                        Query(quantile(0.95, "feinschliff_inference_first_token_seconds"), "95 %"),
                        Query(quantile(0.99, "feinschliff_inference_first_token_seconds"), "99 %"),
                    ),
                ),
                Panel(
                    "Between tokens",
                    "Does text flow faster than people read, 0.1 s a token?",
                    "seconds",
                    (
                        Query(quantile(0.5, "feinschliff_inference_next_token_seconds"), "half"),
                        Query(quantile(0.95, "feinschliff_inference_next_token_seconds"), "95 %"),
                    ),
                    levels=(Level(0.1, "orange"),),
                ),
                Panel(
                    "Waiting for a place",
                    "Is the engine full? This wait is part of the first token's.",
                    "seconds",
                    (Query(quantile(0.95, "feinschliff_inference_queue_wait_seconds"), "95 %"),),
                ),
                Panel(
                    "Tokens",
                    "How much is read and written?",
                    "tokens/s",
                    (
                        Query(rate("feinschliff_inference_prompt_tokens_total"), "prompts"),
                        Query(rate("feinschliff_inference_cached_prompt_tokens_total"), "of them known already"),
                        Query(rate("feinschliff_inference_completion_tokens_total"), "answers"),
                    ),
                ),
                Panel(
                    "How long prompts and answers are, 95 %",
                    "Did the kind of request change?",
                    "tokens",
                    (
                        Query(quantile(0.95, "feinschliff_inference_request_prompt_tokens"), "prompts"),
                        Query(quantile(0.95, "feinschliff_inference_request_completion_tokens"), "answers"),
                    ),
                ),
                Panel(
                    "What guards found",
                    "Do guards see more than usual, and what do they do about it?",
                    "per second",
                    (Query(rate("feinschliff_inference_guard_hits_total", "kind", "action"), "{{kind}}, {{action}}"),),
                    silent="needs a guard that finds something",
                ),
                Panel(
                    "Guards that could not judge",
                    "Does the model of a guard answer?",
                    "per second",
                    (Query(rate("feinschliff_inference_guard_failures_total", "action"), "{{action}}"),),
                ),
                Panel(
                    "Streams over HTTP",
                    "Does the gateway pass text on?",
                    "per second",
                    (Query(rate("feinschliff_gateway_stream_chunks_total"), "pieces"),),
                ),
            ),
        ),
        Row(
            "Is there room for more?",
            (
                Panel(
                    "Places and queue taken",
                    "How full is it? At 100 % of the queue, requests are refused.",
                    "share",
                    (
                        Query(
                            "sum(feinschliff_inference_requests_in_flight) / sum(feinschliff_inference_slots)", "places"
                        ),
                        Query(
                            "sum(feinschliff_inference_queue_depth_requests)"
                            " / sum(feinschliff_inference_queue_limit_requests)",
                            "queue",
                        ),
                    ),
                ),
                Panel(
                    "Batch size",
                    "How many answers does one pass of the model write? More is cheaper.",
                    "number",
                    (
                        Query(quantile(0.5, "feinschliff_inference_batch_size_sequences"), "half"),
                        Query(quantile(0.95, "feinschliff_inference_batch_size_sequences"), "95 %"),
                    ),
                ),
                Panel(
                    "Drafts",
                    "How many tokens are looked up in the text of their answer, and how many of them save a step?",
                    "tokens/s",
                    (
                        Query(rate("feinschliff_inference_drafted_tokens_total"), "looked up"),
                        Query(rate("feinschliff_inference_accepted_tokens_total"), "said by the model too"),
                    ),
                ),
                Panel(
                    "Keys and values",
                    "How much of the memory for attention is taken?",
                    "bytes",
                    (
                        Query("sum(feinschliff_inference_kv_cache_bytes)", "taken"),
                        Query("sum(feinschliff_inference_kv_cache_limit_bytes)", "limit"),
                        Query("sum(feinschliff_inference_prefix_cache_bytes)", "beginnings of prompts, beside it"),
                    ),
                ),
                Panel(
                    "vLLM servers",
                    "Are servers away that a base needs, and how often were they lost?",
                    "count",
                    (
                        Query("sum(feinschliff_inference_servers_away)", "away"),
                        Query("sum(feinschliff_inference_server_losses)", "lost so far"),
                    ),
                ),
                Panel(
                    "GPU memory",
                    "How much of each GPU is in use, by whomever?",
                    "share",
                    (
                        Query(
                            "max by (instance, device) (feinschliff_inference_device_memory_bytes"
                            " / feinschliff_inference_device_memory_limit_bytes)",
                            "{{instance}} {{device}}",
                        ),
                    ),
                    silent=NEEDS_GPU,
                    highest=1,
                    levels=(Level(0.97, "red"),),
                ),
                Panel(
                    "GPU use",
                    "Do the GPUs work?",
                    "share",
                    (Query("avg by (pod, gpu) (DCGM_FI_DEV_GPU_UTIL) / 100", "{{pod}} {{gpu}}"),),
                    silent=NEEDS_DCGM,
                    highest=1,
                ),
            ),
        ),
        Row(
            "Is it remembered?",
            (
                Panel(
                    "Exchanges for the log",
                    "Does what is to be remembered arrive? The two lines lie on each other where it does.",
                    "per second",
                    (
                        Query(rate("feinschliff_inference_completions_spooled_total"), "written to the spool"),
                        Query(rate("feinschliff_inference_completions_delivered_total"), "delivered"),
                    ),
                ),
                Panel(
                    "Exchanges lost",
                    "Was anything not kept that was to be, and why?",
                    "count",
                    (
                        Query(
                            "sum by (reason) (increase(feinschliff_inference_completions_dropped_total[$__range]))",
                            "{{reason}}",
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Spool",
                    "How much waits for the log? It grows while ingestion is away.",
                    "bytes",
                    (
                        Query("sum(feinschliff_inference_completion_spool_bytes)", "waiting"),
                        Query("sum(feinschliff_inference_completion_spool_limit_bytes)", "limit"),
                    ),
                ),
                Panel(
                    "Until it is in the log, 95 %",
                    "How soon can an exchange be looked up?",
                    "seconds",
                    (Query(quantile(0.95, "feinschliff_inference_completion_delivery_seconds"), "95 %"),),
                    silent="needs calls that are to be remembered",
                ),
            ),
        ),
        Row(
            "Which models?",
            (
                Panel(
                    "Loaded",
                    "How many bases and adapters are in memory?",
                    "count",
                    (
                        Query("sum(feinschliff_inference_loaded_bases)", "bases"),
                        Query("sum(feinschliff_inference_loaded_adapters)", "adapters"),
                    ),
                ),
                Panel(
                    "Adapters swapped",
                    "Do adapters drive each other out? `evicted` had to make room.",
                    "per second",
                    (Query(rate("feinschliff_inference_adapter_loads_total", "outcome"), "{{outcome}}"),),
                ),
                Panel(
                    "Memory of adapters",
                    "How much do they take? At the limit, those loaded on demand make room; 0 is no limit.",
                    "bytes",
                    (
                        Query("sum(feinschliff_inference_adapter_bytes)", "taken"),
                        Query("sum(feinschliff_inference_adapter_limit_bytes)", "limit"),
                    ),
                ),
                Panel(
                    "Canaries and shadows",
                    "Did a new version do worse and go? Do copies for shadow routes get answered?",
                    "per second",
                    (
                        Query(rate("feinschliff_inference_canary_rollbacks_total", "cause"), "rolled back: {{cause}}"),
                        Query(rate("feinschliff_inference_shadow_requests_total", "outcome"), "shadow {{outcome}}"),
                    ),
                ),
                Panel(
                    "Loading an adapter, 95 %",
                    "How long does the first caller of a model wait?",
                    "seconds",
                    (Query(quantile(0.95, "feinschliff_inference_adapter_load_seconds"), "95 %"),),
                ),
                Panel(
                    "Turns of the reconciler",
                    "How quickly does a wish become a loaded model?",
                    "seconds",
                    (Query(quantile(0.95, "feinschliff_inference_reconcile_seconds"), "95 %"),),
                ),
            ),
        ),
    ),
)
