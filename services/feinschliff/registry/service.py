"""The door of the registry: translate, call, translate back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import grpc
from google.protobuf import empty_pb2

from feinschliff.kit import masks
from feinschliff.kit.clock import Clock
from feinschliff.kit.idempotency import digest_of
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake, follow
from feinschliff.registry import aliases
from feinschliff.registry.aliases import Aliases
from feinschliff.registry.combine import Combinations
from feinschliff.registry.exports import FINAL, Exports
from feinschliff.registry.lineage import Lineage
from feinschliff.registry.lists import Lists, Wish
from feinschliff.registry.models import Asked, Models
from feinschliff.registry.proto import (
    from_model,
    to_alias,
    to_combination,
    to_draft,
    to_export,
    to_graph,
    to_model,
    to_move,
    to_version,
)
from feinschliff.registry.store import Export
from feinschliff.v1 import registry_pb2 as pb
from feinschliff.v1 import registry_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]
NOBODY = "anonymous"  # callers have no identity until keys exist


class RegistryService(registry_pb2_grpc.RegistryServiceServicer):
    def __init__(
        self,
        models: Models,
        names: Aliases,
        lineage: Lineage,
        lists: Lists,
        exports: Exports,
        combinations: Combinations,
        clock: Clock,
        wake: Wake,
    ) -> None:
        self._models = models
        self._aliases = names
        self._lineage = lineage
        self._lists = lists
        self._exports = exports
        self._combinations = combinations
        self._clock = clock
        self._wake = wake

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> pb.Model:
        draft = from_model(request.model, self._clock.now())
        asked = Asked(request.request_id, digest_of(request))
        return to_model(await offload(self._models.create, request.parent, request.model_id, draft, asked))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        return to_model(await offload(self._models.get, request.name))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        listed = await offload(self._lists.models, _wish(request))
        return pb.ListModelsResponse(models=map(to_model, listed.items), next_page_token=listed.next_token)

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.Model:
        paths = masks.paths_of(request.model, request.update_mask)
        draft = from_model(request.model, self._clock.now())
        changes = {path: getattr(draft, path) for path in paths}
        return to_model(await offload(self._models.update, request.model.name, changes, request.model.etag))

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> empty_pb2.Empty:
        await offload(self._models.delete, request.name, request.etag)
        return empty_pb2.Empty()

    async def CreateModelVersion(self, request: pb.CreateModelVersionRequest, context: Context) -> pb.ModelVersion:
        draft, asked = to_draft(request.model_version), Asked(request.request_id, digest_of(request))
        create_model = request.create_model_if_missing
        made = offload(self._models.create_version, request.parent, draft, asked, create_model=create_model)
        return to_version(await made)

    async def GetModelVersion(self, request: pb.GetModelVersionRequest, context: Context) -> pb.ModelVersion:
        return to_version(await offload(self._models.version, request.name))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        listed = await offload(self._lists.versions, _wish(request))
        return pb.ListModelVersionsResponse(
            model_versions=map(to_version, listed.items), next_page_token=listed.next_token
        )

    async def DeprecateModelVersion(
        self, request: pb.DeprecateModelVersionRequest, context: Context
    ) -> pb.ModelVersion:
        return to_version(await offload(self._models.deprecate, request.name, request.reason, request.etag))

    async def DeleteModelVersion(self, request: pb.DeleteModelVersionRequest, context: Context) -> empty_pb2.Empty:
        await offload(self._models.delete_version, request.name, request.etag)
        return empty_pb2.Empty()

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.Alias:
        alias, asked = request.alias, Asked(request.request_id, digest_of(request))
        wish = aliases.Wish(alias.name, alias.model_version, alias.reason, alias.verdict, request.approval, alias.etag)
        return to_alias(await offload(self._aliases.set, wish, asked, NOBODY, validate_only=request.validate_only))

    async def GetAlias(self, request: pb.GetAliasRequest, context: Context) -> pb.Alias:
        return to_alias(await offload(self._aliases.get, request.name))

    async def ListAliases(self, request: pb.ListAliasesRequest, context: Context) -> pb.ListAliasesResponse:
        listed = await offload(self._lists.aliases, _wish(request))
        return pb.ListAliasesResponse(aliases=map(to_alias, listed.items), next_page_token=listed.next_token)

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> empty_pb2.Empty:
        await offload(self._aliases.delete, request.name, request.etag)
        return empty_pb2.Empty()

    async def ListAliasMoves(self, request: pb.ListAliasMovesRequest, context: Context) -> pb.ListAliasMovesResponse:
        listed = await offload(self._lists.moves, _wish(request))
        return pb.ListAliasMovesResponse(alias_moves=map(to_move, listed.items), next_page_token=listed.next_token)

    async def RollbackAlias(self, request: pb.RollbackAliasRequest, context: Context) -> pb.Alias:
        asked = Asked(request.request_id, digest_of(request))
        moved = offload(self._aliases.roll_back, request.name, request.reason, request.etag, asked, NOBODY)
        return to_alias(await moved)

    async def GetLineage(self, request: pb.GetLineageRequest, context: Context) -> pb.LineageGraph:
        way = request.direction
        up = way != pb.GetLineageRequest.DIRECTION_DESCENDANTS
        down = way != pb.GetLineageRequest.DIRECTION_ANCESTORS
        return to_graph(await offload(self._lineage.graph, request.name, up=up, down=down, depth=request.depth))

    async def CombineAdapters(self, request: pb.CombineAdaptersRequest, context: Context) -> pb.Export:
        wish, asked = to_combination(request), Asked(request.request_id, digest_of(request))
        queued = offload(self._combinations.ask, request.parent, wish, asked, validate_only=request.validate_only)
        export = to_export(await queued)
        if request.validate_only:
            export.ClearField("name")
        return export

    async def GetExport(self, request: pb.GetExportRequest, context: Context) -> pb.Export:
        return to_export(await offload(self._exports.get, request.name))

    async def ListExports(self, request: pb.ListExportsRequest, context: Context) -> pb.ListExportsResponse:
        listed = await offload(self._lists.exports, _wish(request))
        return pb.ListExportsResponse(exports=map(to_export, listed.items), next_page_token=listed.next_token)

    async def CancelExport(self, request: pb.CancelExportRequest, context: Context) -> pb.Export:
        return to_export(await offload(self._exports.cancel, request.name))

    async def WatchExport(
        self, request: pb.WatchExportRequest, context: Context
    ) -> AsyncIterator[pb.WatchExportResponse]:
        def newer(after: int) -> Sequence[Export]:
            export = self._exports.get(request.name)
            return [export] if export.version > after else []

        changes = follow(
            newer,
            cursor_of=lambda export: export.version,
            start=request.cursor,
            is_final=lambda: self._exports.get(request.name).state in FINAL,
            wake=self._wake,
        )
        async for export in changes:
            yield pb.WatchExportResponse(cursor=export.version, export=to_export(export))


class _List(Protocol):
    """What every list request has."""

    parent: str
    page_size: int
    page_token: str
    filter: str
    order_by: str


def _wish(request: _List) -> Wish:
    return Wish(request.parent, request.page_size, request.page_token, request.filter, request.order_by)
