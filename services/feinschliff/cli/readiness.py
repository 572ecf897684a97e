"""Asks every door of a platform whether it is ready."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feinschliff.cli.settings import SERVICES, PlatformSettings
from feinschliff.kit import tls
from feinschliff.kit.client import bare_channel

SERVING, UNREACHABLE = "SERVING", "UNREACHABLE"
_ASK_SECONDS = 2.0


def look(settings: PlatformSettings) -> Mapping[str, str]:
    """By room: SERVING, NOT_SERVING or UNREACHABLE; all are asked at the same time."""
    tls.configure(settings)
    with ThreadPoolExecutor(len(SERVICES) + 1) as pool:
        asked = {room: pool.submit(grpc_health, settings.address_of(room)) for room in SERVICES}
        asked = {"gateway": pool.submit(http_ready, settings.gateway_url), **asked}
        return {room: answer.result() for room, answer in asked.items()}


def is_ready(seen: Mapping[str, str]) -> bool:
    return all(answer == SERVING for answer in seen.values())


def grpc_health(address: str) -> str:
    """The overall health of a gRPC server."""
    if not _listens(address):
        return UNREACHABLE
    with bare_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_ASK_SECONDS, wait_for_ready=True
            )
        except grpc.RpcError:
            return UNREACHABLE
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def http_ready(url: str) -> str:
    """What `/readyz` says, in the same words."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=_ASK_SECONDS):
            return SERVING
    except urllib.error.HTTPError:
        return "NOT_SERVING"
    except OSError:
        return UNREACHABLE


def _listens(address: str) -> bool:
    """A look before gRPC is asked, whose own attempts to connect come ever more seldom."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ASK_SECONDS):
            return True
    except OSError:
        return False
