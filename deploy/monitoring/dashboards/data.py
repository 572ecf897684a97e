"""Does data come in, is it good, and what became of it: uploads, findings, versions, and the models made of them."""

from __future__ import annotations

from deploy.monitoring.panels import Dashboard, Panel, Query, Row
from deploy.monitoring.promql import quantile, rate

DATA = Dashboard(
    uid="feinschliff-data",
    title="Feinschliff / Data and models",
    asks="Does data come in, is it good, and what was made of it?",
    rows=(
        Row(
            "Does data come in?",
            (
                Panel(
                    "Uploads that ended",
                    "Do uploads succeed? `refused` is the file's fault, `failed` the line's or ours.",
                    "count",
                    (
                        Query(
                            "sum by (outcome) (increase(feinschliff_ingestion_uploads_total[$__range]))", "{{outcome}}"
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Bytes taken in",
                    "How much comes in, by gRPC and through the gateway?",
                    "bytes/s",
                    (
                        Query(rate("feinschliff_ingestion_upload_bytes_total"), "ingestion"),
                        Query(rate("feinschliff_gateway_upload_bytes_total"), "by HTTP"),
                    ),
                ),
                Panel(
                    "How long uploads take",
                    "How long do people wait for their file to be checked and stored?",
                    "seconds",
                    (
                        Query(quantile(0.5, "feinschliff_ingestion_upload_seconds"), "half"),
                        Query(quantile(0.95, "feinschliff_ingestion_upload_seconds"), "95 %"),
                    ),
                ),
                Panel(
                    "Places taken",
                    "Are uploads turned away? At 100 % the next one is told to come again.",
                    "share",
                    (
                        Query(
                            "sum(feinschliff_ingestion_uploads_in_flight) / sum(feinschliff_ingestion_upload_slots)",
                            "taken",
                        ),
                    ),
                    highest=1,
                ),
                Panel(
                    "Rows read back",
                    "How fast do trainers and evaluations read?",
                    "per second",
                    (Query(rate("feinschliff_ingestion_read_rows_total"), "rows"),),
                ),
                Panel(
                    "Completion log",
                    "How much is remembered, judged, and forgotten when its time is over?",
                    "per second",
                    (
                        Query(rate("feinschliff_ingestion_completions_recorded_total"), "recorded"),
                        Query(rate("feinschliff_ingestion_feedback_total"), "judged"),
                        Query(rate("feinschliff_ingestion_completions_expired_total"), "expired"),
                    ),
                ),
                Panel(
                    "Cleaning up",
                    "Does upkeep get done?",
                    "seconds",
                    (Query(quantile(0.95, "feinschliff_ingestion_cleanup_seconds"), "95 %"),),
                ),
            ),
        ),
        Row(
            "Is it good?",
            (
                Panel(
                    "Rows",
                    "How many rows are kept, skipped, refused?",
                    "count",
                    (Query("sum by (outcome) (increase(feinschliff_ingestion_rows_total[$__range]))", "{{outcome}}"),),
                    kind="stat",
                ),
                Panel(
                    "Findings",
                    "What do the checks find in the data? Errors are refused, warnings stored with it.",
                    "count",
                    (
                        Query(
                            "sum by (severity) (increase(feinschliff_ingestion_findings_total[$__range]))",
                            "{{severity}}",
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Tokens stored",
                    "How much is there to learn from?",
                    "tokens",
                    (Query("sum(increase(feinschliff_ingestion_tokens_total[$__range]))", "tokens"),),
                    kind="stat",
                ),
                Panel(
                    "Dataset versions",
                    "How many versions are there? Those in PROCESSING are being uploaded.",
                    "count",
                    (Query("max by (state) (feinschliff_ingestion_versions)", "{{state}}"),),
                ),
            ),
        ),
        Row(
            "What was made of it?",
            (
                Panel(
                    "Models",
                    "How many models and versions are there?",
                    "count",
                    (
                        Query("max(feinschliff_registry_models)", "models"),
                        Query("max by (state) (feinschliff_registry_versions)", "versions, {{state}}"),
                    ),
                ),
                Panel(
                    "Versions registered",
                    "How many new versions came?",
                    "count",
                    (Query("sum(increase(feinschliff_registry_versions_registered_total[$__range]))", "versions"),),
                    kind="stat",
                ),
                Panel(
                    "Aliases moved",
                    "How often is something released, or taken back?",
                    "count",
                    (Query("sum by (act) (increase(feinschliff_registry_alias_moves_total[$__range]))", "{{act}}"),),
                    kind="stat",
                ),
                Panel(
                    "Exports ended",
                    "How many models were written in another form, and did it work?",
                    "count",
                    (
                        Query(
                            "sum by (state) (increase(feinschliff_registry_exports_finished_total[$__range]))",
                            "{{state}}",
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Lineage",
                    "How long does it take to say what a model was made from?",
                    "seconds",
                    (Query(quantile(0.95, "feinschliff_registry_lineage_seconds"), "95 %"),),
                ),
            ),
        ),
    ),
)
