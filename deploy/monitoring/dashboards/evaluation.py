"""Do evaluations get on, do grades come, and what takes the time."""

from __future__ import annotations

from deploy.monitoring.panels import Dashboard, Level, Panel, Query, Row
from deploy.monitoring.promql import quantile, rate

EVALUATION = Dashboard(
    uid="feinschliff-evaluation",
    title="Feinschliff / Evaluation",
    asks="Do evaluations get on, and what takes their time?",
    rows=(
        Row(
            "Do runs get on?",
            (
                Panel(
                    "Runs",
                    "How many runs are in which state?",
                    "count",
                    (Query("max by (state) (feinschliff_evaluation_runs)", "{{state}}"),),
                ),
                Panel(
                    "Runs that ended",
                    "Do runs complete?",
                    "count",
                    (
                        Query(
                            "sum by (state) (increase(feinschliff_evaluation_runs_finished_total[$__range]))",
                            "{{state}}",
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "How long runs take",
                    "How long does somebody wait for a score?",
                    "seconds",
                    (
                        Query(quantile(0.5, "feinschliff_evaluation_run_seconds"), "half"),
                        Query(quantile(0.95, "feinschliff_evaluation_run_seconds"), "95 %"),
                    ),
                ),
                Panel(
                    "Items",
                    "Do items get a grade? `errored` had no answer, `ungraded` no grader that could judge.",
                    "per second",
                    (Query(rate("feinschliff_evaluation_items_total", "outcome"), "{{outcome}}"),),
                    stacked=True,
                ),
                Panel(
                    "Items under way",
                    "Is evaluation busy?",
                    "count",
                    (Query("sum(feinschliff_evaluation_items_in_flight)", "items"),),
                ),
                Panel(
                    "Python grades",
                    "Do functions of graders give numbers? `sandbox` is ours to mend, all others are theirs.",
                    "per second",
                    (Query(rate("feinschliff_evaluation_sandbox_runs_total", "outcome"), "{{outcome}}"),),
                    stacked=True,
                ),
                Panel(
                    "Python grades under way",
                    "Do they stand in line? Then more workers help.",
                    "count",
                    (Query("sum(feinschliff_evaluation_sandbox_runs_in_flight)", "grades"),),
                ),
                Panel(
                    "Processes of the sandbox started",
                    "Do they die?",
                    "per second",
                    (Query(rate("feinschliff_evaluation_sandbox_starts_total"), "starts"),),
                ),
                Panel(
                    "Errors of the reconciler",
                    "Is there a run that it cannot handle?",
                    "per second",
                    (Query(rate("feinschliff_evaluation_reconcile_errors_total"), "errors"),),
                    levels=(Level(0.01, "red"),),
                ),
            ),
        ),
        Row(
            "Are releases decided?",
            (
                Panel(
                    "Verdicts",
                    "Do candidates pass their gates? `failed` could not be measured.",
                    "count",
                    (
                        Query(
                            "sum by (state) (increase(feinschliff_evaluation_verdicts_total[$__range]))",
                            "{{state}}",
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "How long verdicts take",
                    "How long does a release wait for its gate?",
                    "seconds",
                    (
                        Query(quantile(0.5, "feinschliff_evaluation_verdict_seconds"), "half"),
                        Query(quantile(0.95, "feinschliff_evaluation_verdict_seconds"), "95 %"),
                    ),
                ),
            ),
        ),
        Row(
            "What takes the time?",
            (
                Panel(
                    "An answer of the model",
                    "How long does a model take for one item?",
                    "seconds",
                    (
                        Query(quantile(0.5, "feinschliff_evaluation_sampling_seconds"), "half"),
                        Query(quantile(0.95, "feinschliff_evaluation_sampling_seconds"), "95 %"),
                    ),
                ),
                Panel(
                    "A grade, 95 %",
                    "Which grader is slow? A judge is a model's answer, the others take milliseconds.",
                    "seconds",
                    (Query(quantile(0.95, "feinschliff_evaluation_grader_seconds", "grader"), "{{grader}}"),),
                ),
                Panel(
                    "Tokens sampled",
                    "How much do evaluations ask of the models?",
                    "tokens/s",
                    (Query(rate("feinschliff_evaluation_sampled_tokens_total"), "answers"),),
                ),
                Panel(
                    "Turns of the reconciler",
                    "How quickly does a run move on?",
                    "seconds",
                    (Query(quantile(0.95, "feinschliff_evaluation_reconcile_seconds"), "95 %"),),
                ),
            ),
        ),
    ),
)
