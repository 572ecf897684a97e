"""While a GGUF is unpacked, what is a function of it alone is worked out once; afterwards all is as it was."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from feinschliff.lm.gguf_once import read_once


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / f"{name}.gguf") for name in ("one", "other")]
    for path in paths:
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name(Path(path).stem)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    return paths


def test_a_header_is_parsed_once_and_each_file_has_its_own(files: list[str]) -> None:
    one, other = files
    with read_once():
        found = gguf.GGUFReader(one)
        assert gguf.GGUFReader(one) is found
        assert found.fields["general.name"].contents() == "one"
        assert gguf.GGUFReader(other).fields["general.name"].contents() == "other"
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) is names
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3) is not names


def test_afterwards_all_is_as_it_was_even_where_reading_failed() -> None:
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with pytest.raises(FileNotFoundError), read_once():
        gguf.GGUFReader("/nowhere.gguf")
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
