"""Feature files against the ones that torch itself writes."""

import io
import struct
import zipfile
import zlib

import pytest
import torch

from extract.store import formats
from extract.store.formats import archive

SHAPES = [(1, 768, 249), (1, 1, 1), (1, 3, 7), (1, 2, 64), (5,)]


def ours(tensor: torch.Tensor) -> bytes:
    return b"".join(archive(tensor.view(torch.uint8).numpy().data, tensor.dtype, tensor.shape))


def by_torch(tensor: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()


def records(data: bytes) -> dict[str, bytes]:
    """Every record of a zip archive, their checksums verified."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        return {name: file.read(name) for name in file.namelist()}


def without_id(data: bytes) -> bytes:
    """An archive whose serialization id and its checksums are blank."""
    name = records(data)["archive/.data/serialization_id"]
    blank = data.replace(name, bytes(len(name)))
    return blank.replace(struct.pack("<I", zlib.crc32(name)), bytes(4))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_it_is_what_torch_writes_but_for_the_serialization_id(shape, dtype):
    for seed in (0, 1):  # the second from what is remembered of the shape
        torch.manual_seed(seed)
        tensor = torch.randn(shape).to(dtype)
        data = ours(tensor)
        assert without_id(data) == without_id(by_torch(tensor))
        read = torch.load(io.BytesIO(data), weights_only=True)
        assert read.dtype == dtype
        assert torch.equal(read, tensor)


def test_it_can_be_mapped_into_memory(tmp_path):
    tensor = torch.randn(1, 32, 50)
    path = tmp_path / "a.pt"
    path.write_bytes(ours(tensor))
    assert torch.equal(torch.load(path, mmap=True, weights_only=True), tensor)


def test_zeros_are_no_special_case():
    assert ours(torch.zeros(1, 4, 4)) == by_torch(torch.zeros(1, 4, 4))


def compressed(data: bytes) -> bytes:
    """The same archive, its records compressed: torch reads it, and it is not the one known."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, content in records(data).items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("way", ["legacy", "rewritten", "no checksums"])
def test_another_archive_of_torchs_is_written_by_torch_itself(monkeypatch, caplog, way):
    formats._surroundings.cache_clear()
    formats._is_known.cache_clear()
    save = torch.save

    def other(tensor, buffer):
        if way == "legacy":
            return save(tensor, buffer, _use_new_zipfile_serialization=False)
        if way == "rewritten":
            return buffer.write(compressed(by_save(tensor)))
        torch.serialization.set_crc32_options(False)
        try:
            return save(tensor, buffer)
        finally:
            torch.serialization.set_crc32_options(True)

    def by_save(tensor):
        buffer = io.BytesIO()
        save(tensor, buffer)
        return buffer.getvalue()

    monkeypatch.setattr(torch, "save", other)
    try:
        for seed in range(3):
            torch.manual_seed(seed)
            for dtype in (torch.float16, torch.bfloat16, torch.float32):
                tensor = torch.randn(1, 5, 7 + seed).to(dtype)
                read = torch.load(io.BytesIO(ours(tensor)), weights_only=True)
                assert read.dtype == dtype
                assert torch.equal(read, tensor)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "new kind of archive" in caplog.text
    finally:
        formats._surroundings.cache_clear()
        formats._is_known.cache_clear()


def test_the_archive_of_this_torch_is_known(caplog):
    formats._is_known.cache_clear()
    assert formats._is_known()
    assert not caplog.records


def test_damaged_feature_files_are_told_from_whole_ones():
    data = ours(torch.randn(1, 4, 5))
    assert formats.is_readable(data)
    assert not formats.is_readable(data[:-1])
    assert not formats.is_readable(b"")
    assert not formats.is_readable(data.replace(b"PK", b"KP"))
    buffer = io.BytesIO()
    torch.save({"no": "tensor"}, buffer)
    assert not formats.is_readable(buffer.getvalue())
