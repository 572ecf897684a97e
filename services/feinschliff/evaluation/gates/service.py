"""The part of evaluation's door that decides releases: gates, verdicts, and judges held to people's judgement."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import grpc
from google.protobuf import empty_pb2

from feinschliff.evaluation.clients import Datasets
from feinschliff.evaluation.drafts import Once
from feinschliff.evaluation.evaluations import Listing
from feinschliff.evaluation.gates.gates import Gates
from feinschliff.evaluation.gates.proto import from_gate, to_calibration, to_gate, to_verdict
from feinschliff.evaluation.gates.verdicts import VERDICT, Verdicts
from feinschliff.evaluation.gates.worker import GateWorker
from feinschliff.evaluation.grading.proto import from_grader, to_grader
from feinschliff.evaluation.judges.calibrations import CALIBRATION, CalibrationDraft, Calibrations
from feinschliff.evaluation.judges.store import Calibration
from feinschliff.evaluation.resources import DATASET_VERSION
from feinschliff.graders.grader import parse
from feinschliff.kit import names
from feinschliff.kit.idempotency import digest_of
from feinschliff.kit.masks import merged
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake, follow
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import evaluation_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]


class Deciding(NamedTuple):
    """What this part of the door opens."""

    gates: Gates
    verdicts: Verdicts
    worker: GateWorker
    calibrations: Calibrations
    datasets: Datasets
    wake: Wake


class GateDoor(evaluation_pb2_grpc.EvaluationServiceServicer):
    """One half of `EvaluationService`; gRPC wants both in one object."""

    def __init__(self, deciding: Deciding) -> None:
        self._deciding = deciding

    async def CreateGatePolicy(self, request: pb.CreateGatePolicyRequest, context: Context) -> pb.GatePolicy:
        draft = from_gate(request.parent, request.gate_policy_id, request.gate_policy)
        return to_gate(await offload(self._deciding.gates.create, draft, _once(request)))

    async def GetGatePolicy(self, request: pb.GetGatePolicyRequest, context: Context) -> pb.GatePolicy:
        return to_gate(await offload(self._deciding.gates.get, request.name))

    async def ListGatePolicies(
        self, request: pb.ListGatePoliciesRequest, context: Context
    ) -> pb.ListGatePoliciesResponse:
        gates, token, total = await offload(self._deciding.gates.list, _listing(request))
        return pb.ListGatePoliciesResponse(gate_policies=map(to_gate, gates), next_page_token=token, total_size=total)

    async def UpdateGatePolicy(self, request: pb.UpdateGatePolicyRequest, context: Context) -> pb.GatePolicy:
        before = await offload(self._deciding.gates.get, request.gate_policy.name)
        after = merged(to_gate(before), request.gate_policy, request.update_mask)
        draft = from_gate(before.parent, "", after)
        return to_gate(await offload(self._deciding.gates.update, before, request.gate_policy.etag, draft))

    async def DeleteGatePolicy(self, request: pb.DeleteGatePolicyRequest, context: Context) -> empty_pb2.Empty:
        await offload(self._deciding.gates.delete, request.name, request.etag)
        return empty_pb2.Empty()

    async def EvaluateGate(self, request: pb.EvaluateGateRequest, context: Context) -> pb.Verdict:
        gate = await offload(self._deciding.gates.get, request.gate_policy)
        begin = self._deciding.worker.begin
        verdict = await begin(
            gate, request.candidate, request.baseline, _once(request), validate_only=request.validate_only
        )
        return to_verdict(verdict)

    async def GetVerdict(self, request: pb.GetVerdictRequest, context: Context) -> pb.Verdict:
        return to_verdict(await offload(self._deciding.verdicts.get, request.name))

    async def ListVerdicts(self, request: pb.ListVerdictsRequest, context: Context) -> pb.ListVerdictsResponse:
        verdicts, token, total = await offload(self._deciding.verdicts.list, _listing(request))
        return pb.ListVerdictsResponse(verdicts=map(to_verdict, verdicts), next_page_token=token, total_size=total)

    async def WatchVerdict(
        self, request: pb.WatchVerdictRequest, context: Context
    ) -> AsyncIterator[pb.WatchVerdictResponse]:
        names.parse(VERDICT, request.name)
        changes = follow(
            lambda cursor: self._deciding.verdicts.after(request.name, cursor),
            cursor_of=lambda verdict: verdict.changes,
            start=request.cursor,
            is_final=lambda: self._deciding.verdicts.is_over(request.name),
            wake=self._deciding.wake,
        )
        async for verdict in changes:
            yield pb.WatchVerdictResponse(cursor=verdict.changes, verdict=to_verdict(verdict))

    async def CalibrateJudge(self, request: pb.CalibrateJudgeRequest, context: Context) -> pb.Calibration:
        wanted = request.calibration
        draft = CalibrationDraft(
            parent=request.parent,
            calibration_id=request.calibration_id,
            grader=from_grader(wanted.grader),
            dataset_version=wanted.dataset_version,
            label_path=wanted.label_path,
            answer_path=wanted.answer_path,
            other_answer_path=wanted.other_answer_path,
        )
        names.parse(DATASET_VERSION, wanted.dataset_version, field="calibration.dataset_version")
        facts = await self._deciding.datasets.facts(wanted.dataset_version)
        create = self._deciding.calibrations.create
        return _calibration(await offload(create, draft, facts, _once(request), validate_only=request.validate_only))

    async def GetCalibration(self, request: pb.GetCalibrationRequest, context: Context) -> pb.Calibration:
        return _calibration(await offload(self._deciding.calibrations.get, request.name))

    async def ListCalibrations(
        self, request: pb.ListCalibrationsRequest, context: Context
    ) -> pb.ListCalibrationsResponse:
        found, token, total = await offload(self._deciding.calibrations.list, _listing(request))
        calibrations = map(_calibration, found)
        return pb.ListCalibrationsResponse(calibrations=calibrations, next_page_token=token, total_size=total)

    async def WatchCalibration(
        self, request: pb.WatchCalibrationRequest, context: Context
    ) -> AsyncIterator[pb.WatchCalibrationResponse]:
        names.parse(CALIBRATION, request.name)
        changes = follow(
            lambda cursor: self._deciding.calibrations.after(request.name, cursor),
            cursor_of=lambda calibration: calibration.changes,
            start=request.cursor,
            is_final=lambda: self._deciding.calibrations.is_over(request.name),
            wake=self._deciding.wake,
        )
        async for calibration in changes:
            yield pb.WatchCalibrationResponse(cursor=calibration.changes, calibration=_calibration(calibration))


def _calibration(calibration: Calibration) -> pb.Calibration:
    return to_calibration(calibration, to_grader(parse(calibration.grader, is_stored=True)))


def _once(request: pb.CreateGatePolicyRequest | pb.EvaluateGateRequest | pb.CalibrateJudgeRequest) -> Once:
    return Once(request.request_id, digest_of(request))


def _listing(
    request: pb.ListGatePoliciesRequest | pb.ListVerdictsRequest | pb.ListCalibrationsRequest,
) -> Listing:
    return Listing(request.parent, request.page_size, request.page_token, request.filter, request.order_by)
