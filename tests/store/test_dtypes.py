"""Features are saved in the dtype that is asked for, and are what torch makes of them."""

import pytest
import torch

from extract.store.dtypes import BLOCK, converted
from extract.store.layout import DType, LayoutOptions
from extract.store.store import Store
from extract.values import Features

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}


def features(values: torch.Tensor) -> Features:
    """Of (layers, hidden_size, num_frames), as the encoder gives them."""
    return Features(values.mT, True, False)


@pytest.mark.parametrize("found", DTYPES)
@pytest.mark.parametrize("wanted", DTYPES)
def test_each_number_is_the_nearest_of_the_new_dtype_and_lies_where_it_lay(found, wanted):
    torch.manual_seed(0)
    values = torch.randn(2, 7, BLOCK // 5).to(DTYPES[found])
    values[0, 0, :2] = torch.tensor([1e-7, -3e-5])  # subnormal in float16
    cast = converted(features(values), wanted).values
    assert cast.dtype == DTYPES[wanted]
    assert torch.equal(cast, values.to(DTYPES[wanted]).mT)
    assert cast.mT.is_contiguous()


@pytest.mark.parametrize("where", [0, -1])
@pytest.mark.parametrize("found", ["float32", "bfloat16"])
def test_what_does_not_fit_is_saved_in_float32(found, where):
    values = torch.zeros(3 * BLOCK, dtype=DTYPES[found]).view(1, 3, BLOCK)
    values.view(-1)[where] = 70_000  # float16 ends at 65,504
    cast = converted(features(values), "float16").values
    assert cast.dtype == torch.float32
    assert torch.equal(cast, values.float().mT)
    assert converted(features(values.float()), "bfloat16").values.dtype == torch.bfloat16


def test_the_dtype_that_is_asked_for_is_that_of_every_utterance(tmp_path):
    store = Store(tmp_path)
    assert [store.dtype_of(name) for name in DTYPES] == list(DTYPES)
    store = Store(tmp_path, options=LayoutOptions(dtype=DType.bfloat16))
    assert {store.dtype_of(name) for name in DTYPES} == {"bfloat16"}


def test_a_layout_whose_files_cannot_hold_it_gets_float32_or_refuses(tmp_path, monkeypatch):
    from extract.store.layouts.gpt_sovits import GptSovits

    monkeypatch.setattr(GptSovits, "dtypes", ("float32", "float16"))
    assert Store(tmp_path).dtype_of("bfloat16") == "float32"
    assert Store(tmp_path).dtype_of("float16") == "float16"
    with pytest.raises(ValueError, match=r"^store.dtype=bfloat16: no file of the layout"):
        Store(tmp_path, options=LayoutOptions(dtype=DType.bfloat16))


def test_a_layout_without_training_audio_refuses_it(tmp_path, monkeypatch):
    from extract.store.layouts.gpt_sovits import GptSovits

    monkeypatch.setattr(GptSovits, "keeps_audio", False)
    with pytest.raises(ValueError, match=r"^store.audio=wav32k: the layout gpt_sovits saves no"):
        Store(tmp_path)
