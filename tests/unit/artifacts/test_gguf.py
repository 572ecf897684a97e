"""The small GGUF reader agrees with the format's own library."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFWriter

from feinschliff.artifacts.gguf import GgufMetadata
from feinschliff.kit.errors import Invalid


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "written.gguf"
    writer = GGUFWriter(str(path), "llama")
    writer.add_string("text", "Grüße 😀")
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65_535)
    writer.add_int16("i16", -32_768)
    writer.add_uint32("u32", 4_294_967_295)
    writer.add_int32("i32", -2_147_483_648)
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 1e300)
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_array("texts", ["a", "", "ü"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("fractions", [0.5, 1.5])
    writer.add_string("last", "reached")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_kind_of_value_is_read(path: Path) -> None:
    metadata = GgufMetadata(path)

    expected = {
        "general.architecture": "llama",
        "text": "Grüße 😀",
        "u8": 255,
        "i8": -128,
        "u16": 65_535,
        "i16": -32_768,
        "u32": 4_294_967_295,
        "i32": -2_147_483_648,
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": 1e300,
        "yes": True,
        "no": False,
        "last": "reached",
    }
    assert {key: metadata.scalar(key) for key in expected} == expected
    assert metadata.texts("texts") == ["a", "", "ü"]
    assert metadata.integers("numbers") == [1, -2, 3]
    assert metadata.count("fractions") == 2


def test_a_value_of_another_kind_is_none_of_this_kind(path: Path) -> None:
    metadata = GgufMetadata(path)

    assert metadata.integer("text") is None
    assert metadata.integer("yes") is None
    assert metadata.text("u8") is None
    assert metadata.scalar("texts") is None
    assert metadata.texts("numbers") == []
    assert metadata.integers("texts") == []
    assert metadata.integers("fractions") == []
    assert metadata.count("text") == 0


def test_a_missing_key_is_none_or_empty(path: Path) -> None:
    metadata = GgufMetadata(path)

    assert "no" in metadata
    assert "missing" not in metadata
    assert metadata.scalar("missing") is None
    assert metadata.texts("missing") == []
    assert metadata.integers("missing") == []


def test_a_file_cut_off_anywhere_in_its_keys_is_refused(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    end_of_keys = whole.index(b"reached") + len(b"reached")

    for kept_bytes in range(0, end_of_keys, 7):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:kept_bytes])
        with pytest.raises(Invalid) as refused:
            GgufMetadata(cut).scalar("last")
        assert refused.value.reason == "GGUF_UNREADABLE"
