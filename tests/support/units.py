"""k-means units by the published formula, and files of units as other tools read them.

Sources: fairseq's examples/hubert/simple_kmeans/dump_km_label.py (`ApplyKmeans`),
fairseq/data/audio/hubert_dataset.py (`load_audio`, `load_label`),
examples/textless_nlp/gslm/unit2speech/utils.py (`load_quantized_audio_from_file`), and slamkit's
`UnitTokeniser.audio_represent` and cli/prepare_tokens.py.
"""

import json
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

BLOCK = 8  # batches


def apply_kmeans(centres: NDArray, frames: NDArray) -> list[int]:
    """`ApplyKmeans` of frames (T, D) and centres (K, D), in float64."""
    c, x = centres.astype(np.float64).T, frames.astype(np.float64)
    distances = (x**2).sum(1, keepdims=True) - 2 * np.matmul(x, c) + (c**2).sum(0, keepdims=True)
    return np.argmin(distances, axis=1).tolist()


def tsv_lines(tsv: Path) -> list[str]:
    """The names of a manifest as `load_audio` has them, `inds` and `tot` being all."""
    with open(tsv) as f:
        f.readline()
        return [line.strip().split("\t")[0] for line in f]


def read_km(path: Path, tot: int) -> list[list[int]]:
    """`load_label`, and the integers in each label."""
    with open(path) as f:
        labels = [line.rstrip() for line in f]
    assert len(labels) == tot, f"number of labels does not match ({len(labels)} != {tot})"
    return [[int(unit) for unit in label.split()] for label in labels]


def read_gslm(path: Path) -> dict[str, list[int]]:
    """`load_quantized_audio_from_file`."""
    found = {}
    with open(path) as f:
        for line in f:
            name, units = line.rstrip().split("|")
            found[name] = [int(unit) for unit in units.split(" ")]
    return found


def read_slamkit(path: Path) -> dict[str, dict]:
    """The lines of `features.jsonl` by their files; none may lack a key that slamkit uses."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all([*line] == ["units", "duration", "file_name"] for line in lines)
    return {line.pop("file_name"): line for line in lines}


def represented(units: list[int]) -> dict[str, list[int]]:
    """`audio_represent` of one utterance, `dedup` True."""
    runs = [(unit, len(list(run))) for unit, run in groupby(units)]
    return {"units": [unit for unit, _ in runs], "duration": [length for _, length in runs]}


def by_scikit_learn(
    epochs: list[list[NDArray]], clusters: int, batch_size: int, seed: int
) -> MiniBatchKMeans:
    """The fit as it is documented: blocks of eight batches, shuffled, a step for each batch.

    `epochs` are the utterances (frames, dimensions) of each, in order.
    """
    model = MiniBatchKMeans(
        clusters,
        batch_size=batch_size,
        random_state=seed,
        n_init=1,
        reassignment_ratio=0.0,
        compute_labels=False,
    )
    most = BLOCK * batch_size
    for epoch, items in enumerate(epochs):
        start = 0
        while start < len(items):
            end = start + 1
            while end < len(items) and sum(map(len, items[start : end + 1])) <= most:
                end += 1
            block = np.concatenate(items[start:end])
            order = np.random.default_rng([seed, epoch, start]).permutation(len(block))
            for rows in np.array_split(order, max(1, len(block) // batch_size)):
                if len(rows):
                    model.partial_fit(block[rows])
            start = end
    return model
