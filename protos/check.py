"""Holds the contracts to `buf.yaml` and to the released contract, without network.

    python protos/check.py            lint, then breaking changes against protos/released.binpb.gz; exit 1 on a finding
    python protos/check.py release    takes the present contracts as the released ones

buf cannot fetch google/api itself where there is no network, so protoc builds the image and buf examines it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.api import field_behavior_pb2
from google.protobuf import descriptor_pb2
from grpc_tools import protoc  # type: ignore[import-untyped]

PROTOS = Path(__file__).resolve().parent
RULES = PROTOS.parent / "buf.yaml"
OURS = "feinschliff/v1"
OPEN_INFERENCE = f"{OURS}/open_inference.proto"  # another standard's package and names, which our lint would refuse
RESERVED_RULES = [
    f"{kind}_NO_DELETE_UNLESS_{what}_RESERVED" for kind in ("FIELD", "ENUM_VALUE") for what in ("NUMBER", "NAME")
]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Check the contracts, or take them as released.")
    parser.add_argument("act", nargs="?", choices=["check", "release"], default="check")
    parser.add_argument("--protos", type=Path, default=PROTOS, help="Folder of the contracts; default: this one.")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        image = build_image(chosen.protos, Path(folder, "contracts.binpb"))
        released = chosen.protos / "released.binpb.gz"
        findings = lint(image)
        if chosen.act == "check":
            findings += breaking(image, released)
        elif not findings:
            findings += release(image, released)
    print(*findings, sep="\n", end="\n" if findings else "")
    print(f"contracts: {len(findings)} findings")
    return 1 if findings else 0


def build_image(protos: Path, image: Path) -> Path:
    """Compiles all contracts with comments and imports into one file that buf reads."""
    imports = Path(field_behavior_pb2.__file__).parents[2]
    builtin = Path(protoc.__file__).parent / "_proto"
    names = [str(path.relative_to(protos)) for path in sorted((protos / OURS).glob("*.proto"))]
    options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={image}"]
    code = protoc.main(["protoc", f"-I{protos}", f"-I{imports}", f"-I{builtin}", *options, *names])
    if code != 0:
        sys.exit(f"protoc refused the contracts in {protos} (exit {code}); see its lines above.")
    return image


def lint(image: Path) -> list[str]:
    return buf("lint", str(image), "--config", str(RULES), "--path", OURS, "--exclude-path", OPEN_INFERENCE)


def breaking(image: Path, released: Path) -> list[str]:
    """What would break a client of the released contract: buf's rules, and fields that have become REQUIRED."""
    findings = buf("breaking", str(image), "--against", str(released), "--config", str(RULES), "--exclude-imports")
    return findings + list(newly_required(read(image), read(released)))


def release(image: Path, released: Path) -> list[str]:
    """Writes the contracts beside themselves, unless a number or name was dropped that is not reserved."""
    if released.exists():
        rules = json.dumps({"version": "v2", "breaking": {"use": RESERVED_RULES}})
        findings = buf("breaking", str(image), "--against", str(released), "--config", rules, "--exclude-imports")
        if findings:
            return findings
    files = read(image)
    for file in files.file:
        file.ClearField("source_code_info")
    released.write_bytes(gzip.compress(files.SerializeToString(deterministic=True), mtime=0))
    return []


def newly_required(now: descriptor_pb2.FileDescriptorSet, before: descriptor_pb2.FileDescriptorSet) -> Iterator[str]:
    """Fields that an old client may leave out and the server would now refuse to miss."""
    old = dict(messages(before))
    for name, message in messages(now):
        if name not in old:
            continue
        were = {field.name for field in old[name].field if is_required(field)}
        for field in message.field:
            if is_required(field) and field.name not in were:
                yield f'Field "{field.name}" on message "{name}" became REQUIRED.'


def messages(files: descriptor_pb2.FileDescriptorSet) -> Iterator[tuple[str, descriptor_pb2.DescriptorProto]]:
    todo = [(file.package, message) for file in files.file for message in file.message_type]
    while todo:
        scope, message = todo.pop()
        name = f"{scope}.{message.name}"
        yield name, message
        todo += [(name, nested) for nested in message.nested_type]


def is_required(field: descriptor_pb2.FieldDescriptorProto) -> bool:
    return field_behavior_pb2.REQUIRED in field.options.Extensions[field_behavior_pb2.field_behavior]


def read(path: Path) -> descriptor_pb2.FileDescriptorSet:
    content = path.read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(gzip.decompress(content) if path.suffix == ".gz" else content)


def buf(*arguments: str) -> list[str]:
    """Runs buf and returns its findings, one a line; exit code 100 is its word for having found some."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    program = shutil.which("buf", path=path) or sys.exit("buf is missing; `pip install buf-bin` brings it.")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode not in (0, 100):
        sys.exit(f"buf {arguments[0]} could not run: {done.stderr.strip()}")
    return done.stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
