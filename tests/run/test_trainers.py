"""What GPT-SoVITS's trainer leaves out."""

import io

import pytest
import torch
from rich.console import Console

from extract.run.summary import Summary
from extract.run.tables import report
from extract.run.trainers import LeftOut, Row, dropped
from extract.store.formats import encode_wav


def is_taken(wav: bytes) -> bool:
    """`TextAudioSpeakerLoader.__init__` in GPT_SoVITS/module/data_utils.py."""
    duration = len(wav) / 32000 / 2
    return 54 > duration > 0.6


@pytest.mark.parametrize("seconds", [0.6, 54])
def test_it_is_what_the_trainer_computes_from_the_size_of_the_file(seconds):
    found = []
    for samples in range(round(seconds * 32000) - 40, round(seconds * 32000) + 40):
        wav = b"".join(map(bytes, encode_wav(torch.zeros(samples, dtype=torch.int16))))
        found.append(is_taken(wav))
        assert (dropped("gpt_sovits", samples / 32000) is None) == is_taken(wav), samples
    assert len(set(found)) == 2


def test_it_is_said_which_end_is_meant_and_only_of_that_layout():
    assert dropped("gpt_sovits", 0.1) == "0.6 s or shorter"
    assert dropped("gpt_sovits", 54.0) == "54 s or longer"
    assert dropped("gpt_sovits", 5.0) is None
    assert dropped("npy", 0.1) is None


def record(name: str, duration_s: float | None, status: str = "saved") -> dict:
    return {"id": name, "status": status, "duration_s": duration_s}


def test_a_table_counts_them_and_names_the_first():
    left_out = LeftOut("gpt_sovits")
    for number in range(1_234):
        left_out.add(record(f"{number}.wav", 60.0))
    for name, duration_s in [("a.wav", 0.2), ("b.wav", 0.3), ("c.wav", 3.0), ("d.wav", None)]:
        left_out.add(record(name, duration_s))
    left_out.add(record("e.wav", 0.1, "rejected"))
    rows = left_out.rows()
    assert rows == (
        Row("0.6 s or shorter", 2, ("a.wav", "b.wav")),
        Row("54 s or longer", 1_234, ("0.wav", "1.wav", "2.wav")),
    )
    console = Console(file=io.StringIO(), width=80)
    report(console, Summary("out", left_out=rows))
    lines = console.file.getvalue().splitlines()
    assert lines[-4:] == [
        "saved, but GPT-SoVITS's trainer leaves out, without saying so:",
        "  0.6 s or shorter        2  a.wav, b.wav",
        "  54 s or longer      1,234  0.wav, 1.wav, 2.wav, and 1,231 more",
        "output: out",
    ]


def test_what_is_left_out_is_told_of_this_run_and_of_earlier_ones(
    extract_folder, recordings, capfd
):
    for options in ((), ("audio.min_duration_s=0.4", "overwrite=true")):
        for _ in range(2):
            assert extract_folder(recordings, "loader.num_workers=0", *options) == 0
            [row] = [line for line in capfd.readouterr().err.splitlines() if "or shorter" in line]
            assert row.split()[4] == ("4" if options else "10"), row
    assert extract_folder(recordings, "audio=plain", "overwrite=true") == 0
    assert "or shorter" not in capfd.readouterr().err, "there is no training audio"
