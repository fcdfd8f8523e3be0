"""s2G files of random weights, and GPT-SoVITS's semantic tokens by its published formula."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from support.checkpoints import foreign_class

CODEBOOK = "quantizer.vq.layers.0._codebook.embed"


def s2g(width: int = 32, codes: int = 50, seed: int = 0) -> dict[str, Tensor]:
    """The two modules of a generator that make tokens, among tensors that do not.

    The second half of the codebook repeats the first: every token is a tie.
    """
    draw = torch.Generator().manual_seed(seed)
    weight = {
        "enc_p.ssl_proj.weight": torch.randn(4, width, 1, generator=draw),
        "ssl_proj.weight": torch.randn(width, width, 2, generator=draw) * (2 * width) ** -0.5,
        "ssl_proj.bias": torch.randn(width, generator=draw) * 0.3,
        CODEBOOK: torch.randn(codes, width, generator=draw),
        "quantizer.vq.layers.0._codebook.inited": torch.ones(1),
    }
    weight[CODEBOOK][codes // 2 :] = weight[CODEBOOK][: codes // 2]
    return weight


def save_s2g(
    path: Path, weight: dict[str, Tensor], *, head: bytes = b"PK", half: bool = True
) -> Path:
    """A file as GPT-SoVITS's `process_ckpt.savee` writes it, with its pickled `utils.HParams`."""
    with foreign_class("utils", "HParams") as hparams:
        config: Any = hparams()
        config.model, config.version = hparams(), "v2"
        config.model.semantic_frame_rate = "25hz"
        weight = {name: x.half() if half else x for name, x in weight.items()}
        torch.save({"weight": weight, "config": config, "info": "8epoch_200iteration"}, path)
    data = path.read_bytes()
    path.write_bytes(head + data[2:])
    return path


def tokens(weight: dict[str, Tensor], ssl: Tensor) -> list[int]:
    """`SynthesizerTrn.extract_latent` of one utterance's (1, width, frames), as published.

    module/models.py: `ssl_proj`, a Conv1d of kernel and stride 2; module/core_vq.py:
    `EuclideanCodebook.quantize`.
    """
    x = torch.nn.functional.conv1d(
        ssl, weight["ssl_proj.weight"].float(), weight["ssl_proj.bias"].float(), stride=2
    )
    x = x.transpose(1, 2).reshape(-1, x.shape[1])
    embed = weight[CODEBOOK].float().t()
    dist = -(x.pow(2).sum(1, keepdim=True) - 2 * x @ embed + embed.pow(2).sum(0, keepdim=True))
    return dist.max(dim=-1).indices.tolist()


def semantic_tsv(weight: dict[str, Tensor], store: Path, names: list[str]) -> bytes:
    """What 3-get-semantic.py writes for a list's names over `4-cnhubert`, is_half False."""
    lines = []
    for name in names:
        path = store / "4-cnhubert" / f"{name}.pt"
        if not path.exists():
            continue
        ssl = torch.load(path, map_location="cpu")
        if ssl.shape[2] < 2:
            continue  # its convolution raises, which the step prints; the line is left out
        semantic = " ".join(map(str, tokens(weight, ssl.float())))
        lines.append(f"{name}\t{semantic}")
    return "\n".join(lines).encode()
