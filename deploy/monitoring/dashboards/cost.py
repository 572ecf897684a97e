"""What it costs, who spends it, and whether machines are paid for that nobody uses."""

from __future__ import annotations

from deploy.monitoring.panels import PROJECT, Dashboard, Panel, Query, Row
from deploy.monitoring.promql import rate

COST = Dashboard(
    uid="feinschliff-cost",
    title="Feinschliff / Cost",
    asks="What does it cost, who spends it, and is it used?",
    variables=(PROJECT,),
    time_from="now-7d",
    refresh="5m",
    rows=(
        Row(
            "What does training cost?",
            (
                Panel(
                    "Spent by project",
                    "Who spends how much? In the currency of the execution profiles, at their prices.",
                    "money",
                    (Query("sum by (project) (increase(feinschliff_training_cost_total[$__range]))", "{{project}}"),),
                    kind="stat",
                ),
                Panel(
                    "Spent by profile",
                    "Which machines cost how much?",
                    "money",
                    (Query("sum by (profile) (increase(feinschliff_training_cost_total[$__range]))", "{{profile}}"),),
                    kind="stat",
                ),
                Panel(
                    "Rate of spending",
                    "How much does it cost now?",
                    "money/hour",
                    (Query(f"3600 * {rate('feinschliff_training_cost_total', 'project')}", "{{project}}"),),
                    stacked=True,
                ),
                Panel(
                    "A million tokens",
                    "What does it cost to train on a million tokens?",
                    "money",
                    (
                        Query(
                            "1e6 * sum(increase(feinschliff_training_cost_total[$__range]))"
                            " / sum(increase(feinschliff_training_trained_tokens_total[$__range]))",
                            "training",
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Time on machines",
                    "How long did attempts hold which machines?",
                    "seconds",
                    (
                        Query(
                            "sum by (profile) (increase(feinschliff_training_attempt_seconds_total[$__range]))",
                            "{{profile}}",
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Energy",
                    "How much energy did training use, as far as it can be told?",
                    "joules",
                    (
                        Query(
                            "sum by (project) (increase(feinschliff_training_energy_joules_total[$__range]))",
                            "{{project}}",
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Carbon dioxide",
                    "How much did that energy set free, at the installation's carbon intensity?",
                    "grams",
                    (
                        Query(
                            "sum by (project) (increase(feinschliff_training_carbon_grams_total[$__range]))",
                            "{{project}}",
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Quota used",
                    "Are there more places than work, or more work than places?",
                    "share",
                    (
                        Query(
                            "max by (profile) (feinschliff_training_slots_used)"
                            " / max by (profile) (feinschliff_training_slots)",
                            "{{profile}}",
                        ),
                    ),
                    highest=1,
                ),
            ),
        ),
        Row(
            "What is asked of the models?",
            (
                Panel(
                    "Tokens served",
                    "How much was read and written?",
                    "tokens",
                    (
                        Query("sum(increase(feinschliff_inference_prompt_tokens_total[$__range]))", "prompts"),
                        Query("sum(increase(feinschliff_inference_completion_tokens_total[$__range]))", "answers"),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Of these for evaluations",
                    "How much of it did evaluations ask?",
                    "tokens",
                    (Query("sum(increase(feinschliff_evaluation_sampled_tokens_total[$__range]))", "answers"),),
                    kind="stat",
                ),
                Panel(
                    "Trained on",
                    "How much was learnt from?",
                    "tokens",
                    (Query("sum(increase(feinschliff_training_trained_tokens_total[$__range]))", "tokens"),),
                    kind="stat",
                ),
            ),
        ),
        Row(
            "What is kept?",
            (
                Panel(
                    "Data taken in",
                    "How much did the store grow by uploads?",
                    "bytes",
                    (Query("sum(increase(feinschliff_ingestion_upload_bytes_total[$__range]))", "uploads"),),
                    kind="stat",
                ),
                Panel(
                    "Checkpoints written",
                    "How much did checkpoints write? Old ones are removed by the job's own rule.",
                    "bytes",
                    (Query("sum(increase(feinschliff_training_checkpoint_bytes_total[$__range]))", "checkpoints"),),
                    kind="stat",
                ),
            ),
        ),
    ),
)
