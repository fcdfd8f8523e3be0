"""Feature files against the ones that torch itself writes."""

import io
import struct
import zipfile
import zlib

import pytest
import torch

from extract.formats import archive

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
