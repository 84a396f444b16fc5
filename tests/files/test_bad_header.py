"""Files that are no safetensors, or lie about themselves: refused before a number is read, by name, with what to do."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save, save_file

from lokr_core import LoKrFileError, load_adapter
from lokr_core._files import read_header

W1, W2 = torch.arange(4.0).reshape(2, 2), torch.ones(3, 3)
GOOD = save({"layer.lokr_w1": W1, "layer.lokr_w2": W2, "layer.alpha": torch.tensor(1.0)}, {"a": "b"})


def write(path, header: dict | str | bytes, body: bytes = b"", length: int | None = None):
    """A file of this header, whatever it says; ``length`` is what it claims its header's to be."""
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def refused(path) -> str:
    with pytest.raises(LoKrFileError) as error:
        load_adapter(path)
    assert isinstance(error.value, ValueError)
    assert f"file: {path}" in str(error.value)
    return str(error.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def test_the_good_file_is_read(path):
    path.write_bytes(GOOD)
    assert list(load_adapter(path)) == ["layer"]


def test_a_missing_file(path):
    assert "No such file" in (text := refused(path)) and "what to do: check the path" in text


def test_a_folder_without_an_adapter(tmp_path):
    text = refused(tmp_path)
    assert "There is no adapter in this folder" in text and "or one .safetensors file" in text


def test_a_file_that_may_not_be_read(path, monkeypatch):
    path.write_bytes(GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read anything
        monkeypatch.setattr("pathlib.Path.open", _denied)
    assert "cannot be read: Permission denied" in refused(path)


def _denied(*_):
    raise PermissionError(13, "Permission denied")


def test_a_path_that_is_none():
    with pytest.raises(LoKrFileError, match="cannot be read.*null"):
        load_adapter("a\0b.safetensors")


def test_an_empty_file(path):
    path.write_bytes(b"")
    assert "empty" in (text := refused(path)) and "what to do: download or save it again" in text


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"1234567",
        b"12345678",
        b"<!DOCTYPE html><html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1",
    ],
)
def test_not_a_safetensors_file(path, content):
    path.write_bytes(content)
    text = refused(path)
    assert "not a safetensors file" in text and "expected: 8 bytes of header length, then a JSON header" in text
    assert f"found: {content[:16]}" in text and "what to do: get the .safetensors file itself" in text


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_renamed(path, zipped):
    torch.save({"layer.lokr_w1": W1}, path, _use_new_zipfile_serialization=zipped)
    text = refused(path)
    assert "This is a pickle" in text and "pickles can run code" in text and "expected: a .safetensors file" in text


def test_a_pickle_is_not_run(path, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path.write_bytes(pickle.dumps(Payload()))
    assert "This is a pickle" in refused(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("length", [128, 0x4B50])
def test_a_header_length_that_looks_like_a_pickle_is_none(path, length):
    """128 is a pickle's first byte, 0x4B50 reads "PK" as a zip begins."""
    header = json.dumps({"layer.lokr_w1": entry((2, 2), 0, 16), "layer.lokr_w2": entry((3, 3), 16, 52)})
    write(path, header.ljust(length), bytes(52))
    assert len(read_header(path).tensors) == 2


def test_every_truncation_is_refused(path):
    for size in range(len(GOOD)):
        path.write_bytes(GOOD[:size])
        refused(path)


def test_truncated_tensors_say_both_sizes(path):
    path.write_bytes(GOOD[:-5])
    text = refused(path)
    assert "truncated" in text and f"expected: {len(GOOD)} bytes" in text and f"found: {len(GOOD) - 5} bytes" in text
    assert "what to do: download the file again" in text


@pytest.mark.parametrize("length", [10_000, 99_999_999, 2**40, 2**63, 2**64 - 1])
def test_a_header_length_beyond_the_file(path, length):
    write(path, '{"a": 1}', length=length)
    text = refused(path)
    assert f"expected: a header of {length:,} bytes" in text and "found: a file of 16 bytes" in text


def test_a_header_longer_than_any_may_be(path):
    with path.open("wb") as file:  # sparse: takes no room
        file.write((150_000_000).to_bytes(8, "little") + b"{")
        file.truncate(200_000_000)
    assert "no header may be longer than 100,000,000" in refused(path)


@pytest.mark.parametrize(
    "header,said",
    [
        (b'{"a": ', "not JSON"),
        (b'{"\xff": 1}', "not JSON"),
        (b"{" + b'"a":{' * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": 1} b', "not JSON"),
    ],
)
def test_a_header_that_is_not_json(path, header, said):
    assert said in (text := refused(write(path, header))) and "what to do: download the file again" in text


@pytest.mark.parametrize(
    "header",
    [
        '{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        '{"a": {"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}',
        '{"__metadata__": {"x": "1", "x": "2"}, "a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_a_name_that_stands_twice(path, header):
    assert "duplicate key" in refused(write(path, header, bytes(4)))


@pytest.mark.parametrize(
    "value",
    [
        1, None, "F32", [], {}, {"dtype": "F32", "shape": [1]}, {"dtype": "F32", "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [0, 4]}, entry((1,), -4, 0), entry((1,), 4, 0), entry((-1,), 0, 4),
        entry((1.0,), 0, 4), entry((True,), 0, 4), entry((1,), 0, 4, None), entry((1,), 0, 4, ["F32"]),
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}, {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}, {"dtype": "F32", "shape": [1], "data_offsets": None},
        {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]},
        {"dtype": "F32", "shape": None, "data_offsets": [0, 4]},
    ],
)  # fmt: skip
def test_a_malformed_entry_is_named(path, value):
    text = refused(write(path, {"layer.lokr_w1": value}, bytes(4)))
    assert "module: layer.lokr_w1" in text and "expected: " in text and "found: " in text


@pytest.mark.parametrize("metadata", [[1], "text", 1])
def test_malformed_metadata(path, metadata):
    assert "metadata" in refused(write(path, {"__metadata__": metadata, "a": entry((1,), 0, 4)}, bytes(4)))


def test_metadata_that_is_no_text_is_refused_as_safetensors_does(path):
    header = {"__metadata__": {"a": 1}, "a": entry((1,), 0, 4)}
    assert "safetensors refuses the file" in refused(write(path, header, bytes(4)))


def test_an_unknown_dtype(path):
    text = refused(write(path, {"layer.lokr_w1": entry((1,), 0, 4, "F31")}, bytes(4)))
    assert "unknown dtype" in text and "module: layer.lokr_w1" in text and "found: F31" in text and "F8_E4M3" in text


@pytest.mark.parametrize(
    "shape,dtype", [((2,), "F32"), ((1,), "F64"), ((1, 2**62), "F32"), ((0,), "F32"), ((3,), "F16")]
)
def test_bytes_that_do_not_fit_the_shape(path, shape, dtype):
    text = refused(write(path, {"layer.lokr_w1": entry(shape, 0, 4, dtype)}, bytes(4)))
    assert "do not fit its shape" in text and "module: layer.lokr_w1" in text and f"for {dtype} {shape}" in text
    assert "found: 4 bytes" in text


@pytest.mark.parametrize(
    "first,second,size,said",
    [
        ((0, 8), (4, 12), 12, "overlap"),
        ((0, 8), (0, 8), 8, "overlap"),
        ((0, 8), (12, 20), 20, "gap"),
        ((4, 12), (12, 20), 20, "gap"),
        ((0, 8), (8, 16), 20, "continues after"),
        ((0, 8), (8, 16), 12, "truncated"),
    ],
)
def test_offsets_that_do_not_make_up_the_file(path, first, second, size, said):
    header = {"a.lokr_w1": entry((2,), *first), "a.lokr_w2": entry((2,), *second)}
    text = refused(write(path, header, bytes(size)))
    assert said in text and "expected: " in text and "found: " in text and "what to do: download the file again" in text
    assert ("module: a.lokr_w" in text) == (said in ("overlap", "gap"))


def test_tensors_of_no_size_take_no_room(path):
    save_file({"a.lokr_w1": W1, "b": torch.zeros(0, 3), "c": torch.zeros(3, 0), "a.lokr_w2": W2}, str(path))
    adapter = load_adapter(path)
    assert list(adapter) == ["a"] and adapter.other["b"].shape == (0, 3) and adapter.other["c"].shape == (3, 0)


def test_an_error_reads_as_one_line_and_fields(path):
    path.write_bytes(b"12345678")
    first, *fields = refused(path).splitlines()
    assert first == "This is not a safetensors file"
    assert [line.split(":")[0].strip() for line in fields] == ["file", "expected", "found", "what to do"]
