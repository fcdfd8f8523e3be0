"""The tables of `docs/scale.md`, from the code's constants and from what the pages say of speed.

`PYTHONPATH=.:tests python tests/support/scale_page.py` writes them into the page.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from extract import choices
from extract.frames import ENCODER_RATE_HZ, HUBERT_STACK
from extract.run.auto import MAX_BATCH_SECONDS, TRAINING_AUDIO_BYTES, WAVEFORM_BYTES
from extract.run.room import BLOCK_BYTES, LINE_BYTES
from extract.store.layout import TrainingAudio
from extract.store.store import Store

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "scale.md"

HOURS, UTTERANCES = 100_000, 100_000_000
BASE, LARGE = 768, 1024  # numbers of a frame
CARDS = 8

Rows = Sequence[Sequence[str]]


def table(head: Sequence[str], rows: Rows) -> str:
    """A table in Markdown: numbers to the right, what they are of to the left."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def storage() -> str:
    """Bytes by layout and dtype."""
    kinds = [
        ("gpt_sovits", TrainingAudio.wav32k, BASE, 2),
        ("gpt_sovits", TrainingAudio.none, BASE, 2),
        ("gpt_sovits", TrainingAudio.none, BASE, 4),
        ("npy", TrainingAudio.none, BASE, 2),
        ("npy", TrainingAudio.none, LARGE, 2),
        ("webdataset", TrainingAudio.none, BASE, 2),
        ("kaldi", TrainingAudio.none, BASE, 4),
    ]
    rows = [_storage_row(*kind) for kind in kinds]
    units = Store("nowhere", features=False).layout
    rate = units.bytes_per_second(0, 0, HUBERT_STACK.frame_rate)
    rows.append(["units alone (`features=false`)", *_sizes(rate, 0)])
    head = ["layout", "bytes a second", f"{HOURS:,} hours", "files", "in whole blocks"]
    return table(head, rows)


def _storage_row(name: str, audio: TrainingAudio, width: int, itemsize: int) -> list[str]:
    options = choices.find("layouts", name).Options("nowhere", audio=audio)
    layout = Store("nowhere", options=options).layout
    rate = layout.bytes_per_second(width, itemsize, HUBERT_STACK.frame_rate)
    files = UTTERANCES * (2 if audio is TrainingAudio.wav32k else 1)
    if layout.holds_many:
        megabytes = vars(options).get("shard_mb") or vars(options)["ark_mb"]
        files = rate * HOURS * 3600 / (megabytes * 1e6)
    dtype = {2: "float16", 4: "float32"}[itemsize]
    sound = ", training audio" if audio is TrainingAudio.wav32k else ""
    return [f"`{name}`, {width} numbers, {dtype}{sound}", *_sizes(rate, files)]


def _sizes(rate: float, files: float) -> list[str]:
    features = rate * HOURS * 3600
    # Of each file half a block is empty, on average.
    whole = features + files * BLOCK_BYTES / 2 + UTTERANCES * LINE_BYTES
    return [
        f"{rate:,.0f}",
        f"{features / 1e12:,.1f} TB",
        f"{files:,.0f}",
        f"{whole / 1e12:,.1f} TB",
    ]


def measured(page: str, row: str, number: str) -> float:
    """The number in a row of a page's table: what `number`, a pattern, finds there."""
    text = (DOCS / f"{page}.md").read_text("utf8")
    line = next(line for line in text.splitlines() if line.startswith(f"| {row}"))
    found = re.search(number, line)
    assert found, (row, line)
    return float(found[1].replace(",", ""))


def speeds() -> dict[str, float]:
    """Times real time, as `docs/performance.md` has them."""
    of_core = "CPU stage, "
    return {
        "card, encoder alone": measured(
            "performance", "encoder, against transformers one utterance at a time", r"\(([\d,]+)x"
        ),
        "card, whole run, one machine's disk": measured(
            "performance", "whole run, 5 s clips, without start-up", r": ([\d,]+)x real time"
        ),
        "two cores, fp32": measured("performance", "encoder fp32, of its", r"\(([\d.]+)x"),
        "core, WAV": measured("performance", f"{of_core}32 kHz mono WAV", r"\| ([\d,]+)x"),
        "core, M4A": measured("performance", f"{of_core}M4A", r"\| ([\d,]+)x"),
        "core, MP3": measured("performance", "the same, MP3", r"\| ([\d,]+)x"),
    }


def compute() -> str:
    """Hours of cards, and what a card needs."""
    found = speeds()
    audio = 2 * ENCODER_RATE_HZ  # bytes of a second of a WAV of 16 bits at 16 kHz
    features = BASE * 2 * HUBERT_STACK.frame_rate
    rows = []
    for name in ("card, encoder alone", "card, whole run, one machine's disk", "two cores, fp32"):
        speed = found[name]
        cores = [f"{speed / found[f'core, {kind}']:,.1f}" for kind in ("WAV", "M4A", "MP3")]
        hours = HOURS / speed
        flows = [f"{speed * rate / 1e6:,.0f} MB/s" for rate in (audio, features)]
        rows.append(
            [name, f"{speed:,g}x", f"{hours:,.1f}", f"{hours / CARDS:,.1f}", *flows, *cores]
        )
    head = ["what", "speed", "hours on one", f"on {CARDS}", "audio in", "features out"]
    return table([*head, "cores for WAV", "M4A", "MP3"], rows)


def main_process() -> str:
    """What `benchmarks.scale` measured for a million, times the number of utterances."""
    rows = []
    for name in ("planning", "resume"):
        seconds = measured("scale", f"{name}, a million", r"\| ([\d.]+) s")
        megabytes = measured("scale", f"{name}, a million", r"\| ([\d.]+) MB")
        rows.append([name, *(f"{seconds * n / 60:,.1f} min" for n in _MILLIONS)])
        rows[-1] += [f"{megabytes * n / 1e3:,.1f} GB" for n in _MILLIONS]
    ledger = [f"{LINE_BYTES * n / 1e3:,.1f} GB" for n in _MILLIONS]
    rows.append(["ledger, bytes", *[""] * len(_MILLIONS), *ledger])
    heads = [f"{n} million" for n in _MILLIONS]
    return table(["what", *heads, *heads], rows)


_MILLIONS = (1, 10, 100)


def in_flight() -> str:
    """Bytes of a batch on its way to the encoder."""
    rows = []
    for seconds in (60.0, MAX_BATCH_SECONDS):
        each = seconds * (WAVEFORM_BYTES + TRAINING_AUDIO_BYTES)
        rows.append([f"{seconds:g}", f"{each / 1e6:,.1f} MB", f"{each * 16 * 2 / 1e6:,.0f} MB"])
    return table(["padded seconds of a batch", "in shared memory", "16 workers, 2 each"], rows)


def folders() -> str:
    """Files in a folder, by levels of sub-folders of 256."""
    rows = []
    for levels in (0, 1, 2):
        rows.append([str(levels), f"{256**levels:,}", f"{UTTERANCES / 256**levels:,.0f}"])
    return table(["levels", "folders", f"files in each, of {UTTERANCES:,}"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "storage": storage,
    "compute": compute,
    "main process": main_process,
    "in flight": in_flight,
    "folders": folders,
}

# Numbers of the page's formulas and sentences.
CONSTANTS = (
    TRAINING_AUDIO_BYTES,
    BLOCK_BYTES,
    LINE_BYTES,
    round(HUBERT_STACK.frame_rate),
    BASE,
    LARGE,
    2 * ENCODER_RATE_HZ,
)


def page(text: str) -> str:
    """The page with its tables computed anew, each between its two marks."""
    for name, made in TABLES.items():
        start, end = f"<!-- computed: {name} -->\n", "\n<!-- end -->"
        before, found, rest = text.partition(start)
        assert found, name
        text = before + start + made() + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf8")), "utf8")
