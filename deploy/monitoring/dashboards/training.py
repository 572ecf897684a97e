"""What waits, what runs, how runs compare while they run, and whether the machinery keeps up."""

from __future__ import annotations

from deploy.monitoring.panels import (
    NEEDS_DCGM,
    NEEDS_GPU,
    NEEDS_TROUBLE,
    PROJECT,
    TRAINING_JOB,
    Dashboard,
    Level,
    Panel,
    Query,
    Row,
)
from deploy.monitoring.promql import quantile, rate

JOB = "{{training_job}}"
BY_JOB = "max by (project, training_job)"

TRAINING = Dashboard(
    uid="feinschliff-training",
    title="Feinschliff / Training",
    asks="What waits, what runs, and which run learns best?",
    variables=(PROJECT._replace(series=TRAINING_JOB.series), TRAINING_JOB),
    refresh="10s",
    rows=(
        Row(
            "Do jobs get on?",
            (
                Panel(
                    "Jobs",
                    "How many jobs are in which state?",
                    "count",
                    (Query("max by (state) (feinschliff_training_jobs)", "{{state}}"),),
                ),
                Panel(
                    "Waiting for a place",
                    "Do jobs queue, and do attempts wait for the cluster?",
                    "count",
                    (
                        Query("max(feinschliff_training_queue_depth_jobs)", "jobs in the queue"),
                        Query("sum(feinschliff_training_attempts_pending)", "attempts not begun by the cluster"),
                        Query("sum(feinschliff_training_attempts_in_flight)", "attempts under way"),
                    ),
                ),
                Panel(
                    "Places taken",
                    "Which execution profile is full?",
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
                Panel(
                    "Wait until begun",
                    "How long do people wait for their job to begin?",
                    "seconds",
                    (
                        Query(quantile(0.5, "feinschliff_training_queue_wait_seconds"), "half of the jobs"),
                        Query(quantile(0.95, "feinschliff_training_queue_wait_seconds"), "95 %"),
                    ),
                ),
                Panel(
                    "How long jobs take",
                    "How long is a job from its creation to its end?",
                    "seconds",
                    (Query(quantile(0.5, "feinschliff_training_job_seconds", "state"), "{{state}}"),),
                ),
                Panel(
                    "Jobs that ended",
                    "Do jobs succeed?",
                    "count",
                    (
                        Query(
                            "sum by (state) (increase(feinschliff_training_jobs_finished_total[$__range]))", "{{state}}"
                        ),
                    ),
                    kind="stat",
                ),
            ),
        ),
        Row(
            "Which run learns best?",
            (
                Panel(
                    "Training loss",
                    "Does the loss fall, and whose falls furthest?",
                    "nats/token",
                    (Query(f'{BY_JOB} (feinschliff_training_job_loss{{phase="train"}})', JOB),),
                    width=12,
                    height=9,
                ),
                Panel(
                    "Validation loss",
                    "Does it learn, or learn by heart? Rising while the training loss falls: it learns by heart.",
                    "nats/token",
                    (Query(f'{BY_JOB} (feinschliff_training_job_loss{{phase="validation"}})', JOB),),
                    width=12,
                    height=9,
                ),
                Panel(
                    "Runs now",
                    "Where does each run stand?",
                    "number",
                    (
                        Query(f"{BY_JOB} (feinschliff_training_job_step)", "step"),
                        Query(f"{BY_JOB} (feinschliff_training_job_steps)", "of"),
                        Query(f'{BY_JOB} (feinschliff_training_job_loss{{phase="train"}})', "loss"),
                        Query(f"{BY_JOB} (feinschliff_training_job_tokens_per_second)", "tokens/s"),
                    ),
                    kind="table",
                    width=12,
                ),
                Panel(
                    "Done",
                    "How far is each run?",
                    "share",
                    (
                        Query(
                            f"{BY_JOB} (feinschliff_training_job_step) / {BY_JOB} (feinschliff_training_job_steps)", JOB
                        ),
                    ),
                    width=12,
                    highest=1,
                ),
                Panel(
                    "Speed",
                    "How fast is each run?",
                    "tokens/s",
                    (Query(f"{BY_JOB} (feinschliff_training_job_tokens_per_second)", JOB),),
                ),
                Panel(
                    "Learning rate",
                    "Does the schedule do what was asked?",
                    "number",
                    (Query(f"{BY_JOB} (feinschliff_training_job_learning_rate)", JOB),),
                ),
                Panel(
                    "Gradient norm",
                    "Is a run about to break? Spikes here come before the loss goes up.",
                    "number",
                    (Query(f"{BY_JOB} (feinschliff_training_job_gradient_norm)", JOB),),
                ),
            ),
        ),
        Row(
            "What do trainers take?",
            (
                Panel(
                    "Memory",
                    "Does a trainer near its limit?",
                    "bytes",
                    (Query(f"{BY_JOB} (feinschliff_training_memory_bytes)", JOB),),
                ),
                Panel(
                    "GPU memory",
                    "How much of its GPU does a run hold at most? What is free could be a larger batch.",
                    "bytes",
                    (Query(f"{BY_JOB} (feinschliff_training_device_memory_bytes)", JOB),),
                    silent=NEEDS_GPU,
                ),
                Panel(
                    "GPU use",
                    "Are the GPUs busy? Well below 90 % the data comes too slowly, or batches are too small.",
                    "share",
                    (Query("avg by (pod, gpu) (DCGM_FI_DEV_GPU_UTIL) / 100", "{{pod}} {{gpu}}"),),
                    silent=NEEDS_DCGM,
                    highest=1,
                ),
            ),
        ),
        Row(
            "Does the machinery keep up?",
            (
                Panel(
                    "Attempts that ended",
                    "Do attempts succeed at once? `resumable` were asked to stop, `vanished` lost their machine.",
                    "count",
                    (
                        Query(
                            "sum by (outcome) (increase(feinschliff_training_attempts_total[$__range]))", "{{outcome}}"
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Attempts that began warm",
                    "Does a trainer stand ready when a job begins? Cold ones take seconds more to their first step.",
                    "count",
                    (
                        Query(
                            "sum by (start) (increase(feinschliff_training_attempt_starts_total[$__range]))",
                            "{{start}}",
                        ),
                        Query("sum(feinschliff_training_warm_workers)", "stand ready now"),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Trouble with machines",
                    "What keeps attempts from starting, or ends them?",
                    "per second",
                    (Query(rate("feinschliff_training_troubles_total", "reason"), "{{reason}}"),),
                    silent=NEEDS_TROUBLE,
                ),
                Panel(
                    "Tokens trained on",
                    "How much learning happens, over all runs?",
                    "tokens/s",
                    (
                        Query(rate("feinschliff_training_trained_tokens_total"), "with a label"),
                        Query("sum(feinschliff_training_tokens_per_second)", "read"),
                    ),
                ),
                Panel(
                    "Steps and reports",
                    "Do trainers report?",
                    "per second",
                    (
                        Query(rate("feinschliff_training_steps_total"), "optimiser steps"),
                        Query(rate("feinschliff_training_events_stored_total"), "events stored"),
                    ),
                ),
                Panel(
                    "Writing a checkpoint",
                    "How long does training pause for a checkpoint?",
                    "seconds",
                    (
                        Query(quantile(0.5, "feinschliff_training_checkpoint_seconds"), "half"),
                        Query(quantile(0.95, "feinschliff_training_checkpoint_seconds"), "95 %"),
                    ),
                ),
                Panel(
                    "Checkpoints",
                    "How much goes to the store?",
                    "bytes/s",
                    (Query(rate("feinschliff_training_checkpoint_bytes_total"), "bytes"),),
                ),
                Panel(
                    "Checkpoints written",
                    "Is work being saved?",
                    "per second",
                    (Query(rate("feinschliff_training_checkpoints_total"), "checkpoints"),),
                ),
                Panel(
                    "Turns of the reconciler",
                    "How quickly does a job move on?",
                    "seconds",
                    (Query(quantile(0.95, "feinschliff_training_reconcile_seconds"), "95 %"),),
                ),
                Panel(
                    "Errors of the reconciler",
                    "Is there a job that it cannot handle?",
                    "per second",
                    (Query(rate("feinschliff_training_reconcile_errors_total"), "errors"),),
                    levels=(Level(0.01, "red"),),
                ),
                Panel(
                    "Watchers",
                    "Who is looking?",
                    "count",
                    (Query("sum(feinschliff_training_watchers)", "streams"),),
                ),
            ),
        ),
    ),
)
