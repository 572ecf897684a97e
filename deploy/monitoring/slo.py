"""What callers may rely on: every call of the API has a class, and each class has objectives over 30 days."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

OUR_FAULTS = ("UNKNOWN", "INTERNAL", "DATA_LOSS")
NO_ANSWER = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
TURNED_AWAY = ("RESOURCE_EXHAUSTED",)


class Latency(NamedTuple):
    """`share` of the calls end (or bring their first token) within `seconds`, a bound of the histogram."""

    share: float
    seconds: float
    histogram: str = "grpc_server_handling_seconds"


class Class(NamedTuple):
    """Calls that are promised the same.

    Args:
        available: share of the calls that end with none of `bad_codes`.
        excused: reasons of the inference room that do not count: the caller is told to wait, and waits.
    """

    about: str
    available: float
    bad_codes: tuple[str, ...] = (*OUR_FAULTS, *NO_ANSWER)
    latency: Latency | None = None
    excused: tuple[str, ...] = ()


CLASSES: Mapping[str, Class] = {
    "read": Class("Looking something up.", 0.999, latency=Latency(0.99, 0.5)),
    "write": Class("Making, changing or removing something.", 0.999, latency=Latency(0.99, 1.0)),
    "analysis": Class("Computing over many rows, items or edges.", 0.995, latency=Latency(0.99, 5.0)),
    "generation": Class(
        "Answering by a model; how fast, by its first token.",
        0.995,
        bad_codes=(*OUR_FAULTS, *NO_ANSWER, *TURNED_AWAY),
        latency=Latency(0.95, 3.0, "feinschliff_inference_first_token_seconds"),
        excused=("MODEL_LOADING",),
    ),
    "upload": Class("Taking bytes in; how long depends on the file.", 0.995, (*OUR_FAULTS, *NO_ANSWER, *TURNED_AWAY)),
    "stream": Class("Giving many rows or bytes out; how long depends on the reader.", 0.995),
    "watch": Class(
        "Following something until it ends; a restart ends it too, and the client goes on.", 0.995, OUR_FAULTS
    ),
    "worker": Class("What a running trainer asks and reports.", 0.999, latency=Latency(0.99, 1.0)),
}

METHODS: Mapping[str, Mapping[str, str]] = {
    "DatasetService": {
        "read": "GetDataset ListDatasets GetUpload GetDatasetVersion ListDatasetVersions GetAudit ListAudits "
        "ListFormats GetErasure ListErasures",
        "write": "CreateDataset UpdateDataset DeleteDataset StartUpload AbortUpload DeleteDatasetVersion "
        "ImportDatasetVersion DeriveDatasetVersion AuditDatasetVersion EraseSubject",
        "analysis": "SampleRows FindSubject",
        "upload": "UploadDatasetVersion Upload FinishUpload",
        "stream": "ReadRows ReadSource",
        "watch": "WatchDatasetVersion WatchAudit WatchErasure",
    },
    "CompletionLogService": {
        "read": "GetCompletion ListCompletions ListFeedback GetCompletionPolicy",
        "write": "RecordCompletion UpdateCompletion DeleteCompletion AddFeedback UpdateCompletionPolicy",
    },
    "TrainingService": {
        "read": "GetTrainingJob ListTrainingJobs ListTrainingEvents ListTrainingMetrics ListCheckpoints GetCheckpoint "
        "GetCapabilities GetSweep ListSweeps ListTrials",
        "write": "CreateTrainingJob CancelTrainingJob PauseTrainingJob ResumeTrainingJob RetryTrainingJob "
        "DeleteTrainingJob DeleteCheckpoint CreateSweep CancelSweep",
        "analysis": "PlanTrainingJob",
        "stream": "StreamLogs",
        "watch": "WatchTrainingJob WatchSweep",
    },
    "WorkerService": {
        "worker": "GetRunfile Report Finish",
        "watch": "Commands",
    },
    "EvaluationService": {
        "read": "GetEval ListEvals GetEvalRun ListEvalRuns ListOutputItems GetOutputItem GetGatePolicy "
        "ListGatePolicies GetVerdict ListVerdicts GetCalibration ListCalibrations GetPrompt ListPrompts "
        "GetPromptOptimization ListPromptOptimizations",
        "write": "CreateEval UpdateEval DeleteEval CreateEvalRun CancelEvalRun DeleteEvalRun CreateGatePolicy "
        "UpdateGatePolicy DeleteGatePolicy CalibrateJudge CreatePrompt OptimizePrompt CancelPromptOptimization",
        "analysis": "ValidateGrader RunGrader CompareRuns EvaluateGate RenderReport",
        "watch": "WatchEvalRun WatchVerdict WatchCalibration WatchPromptOptimization",
    },
    "RegistryService": {
        "read": "GetModel ListModels GetModelVersion ListModelVersions GetAlias ListAliases ListAliasMoves "
        "GetApproval ListApprovals GetModelCard GetModelImport ListModelImports GetExport ListExports GetModelCheck "
        "ListModelChecks",
        "write": "CreateModel UpdateModel DeleteModel CreateModelVersion DeprecateModelVersion DeleteModelVersion "
        "SetAlias DeleteAlias RollbackAlias RequestApproval Approve Reject ImportModel CancelModelImport CreateExport "
        "CancelExport DeleteExport CombineAdapters CheckParity VerifyModelVersion ReproduceModelVersion",
        "analysis": "GetLineage FindDescendants RenderModelCard",
        "stream": "ReadExport",
        "watch": "WatchModelImport WatchExport WatchModelCheck",
    },
    "InferenceService": {
        "generation": "Chat ChatStream Complete CompleteStream",
        "analysis": "Score Embed Classify Tokenize Detokenize CheckText",
    },
    "DeploymentService": {
        "read": "GetDeployment ListDeployments GetReplicaState ListServableModels",
        "write": "CreateDeployment UpdateDeployment DeleteDeployment SetTraffic Drain",
        "watch": "WatchDeployment",
    },
    "GRPCInferenceService": {
        "read": "ServerLive ServerReady ModelReady ServerMetadata ModelMetadata",
        "generation": "ModelInfer",
    },
}
"""Service and class of every call; a service's own name is enough, for it is served under one package."""


class Window(NamedTuple):
    """A burn rate: how many times faster than allowed the budget of 30 days is spent, over a long and a short time."""

    long: str
    short: str
    factor: float


FAST = (Window("1h", "5m", 14.4), Window("6h", "30m", 6.0))  # 2 % and 5 % of the budget are gone: somebody gets up
SLOW = (Window("1d", "2h", 3.0), Window("3d", "6h", 1.0))  # 10 % are gone: somebody looks tomorrow
BAD_EVENTS_MIN = 10.0
"""Fewer bad calls than this over the long time alarm nobody: one of two calls at night is no trend."""


def methods_of(name: str) -> list[str]:
    """The methods of a class, over all services, in order."""
    return sorted(method for classes in METHODS.values() for method in classes.get(name, "").split())


def class_of(service: str, method: str) -> str | None:
    """The class of a call; None where the table lacks it."""
    classes = METHODS.get(service.rsplit(".", 1)[-1], {})
    return next((name for name, methods in classes.items() if method in methods.split()), None)
