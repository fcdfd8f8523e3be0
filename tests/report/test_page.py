"""The page of a store: its numbers, its pictures, and that it can harm nobody."""

import base64
import hashlib
import io
import json
import re
import shutil
import sys
import tracemalloc
from collections import Counter
from itertools import pairwise

import av
import numpy as np
import pytest

from extract import choices
from extract.app import main
from extract.report import charts, pages
from extract.report.charts import in_short
from extract.report.counted import Counted
from extract.report.run import write
from support.command import TINY, extract_into
from support.pages import page
from support.recordings import write_wav
from support.stores import ledger


@pytest.fixture(scope="module")
def shown(store, tmp_path_factory):
    return page(write(store, tmp_path_factory.mktemp("page") / "report.html"))


def test_its_numbers_are_the_ledgers(store, shown):
    lines = ledger(store)
    saved = [line for line in lines if line["status"] == "saved"]
    others = Counter((x["reason"], x["status"]) for x in lines if x["status"] != "saved")
    cards = dict(zip(*(map(text, shown.all(tag)) for tag in ("dt", "dd")), strict=True))
    assert cards == {
        "utterances": str(len(lines)),
        "saved": str(len(saved)),
        "rejected": str(sum(x["status"] == "rejected" for x in lines)),
        "failed": str(sum(x["status"] == "failed" for x in lines)),
        "hours saved": f"{sum(x['duration_s'] for x in saved) / 3600:.2f}",
        "frames": str(sum(x["num_frames"] for x in saved)),
        "with clipped samples": str(sum(x["clipped_samples"] > 0 for x in saved)),
    }
    assert len(others) == 8
    rows = shown.rows("Why recordings gave no features")
    assert Counter({(a, b): int(n) for a, b, n in rows}) == others
    for (reason, _status), number in others.items():
        named = [[x["id"], x["detail"]] for x in lines if x["reason"] == reason]
        assert shown.rows(f"{reason}: {number}") == named


def text(element) -> str:
    return element.text


def name_in(heading) -> str:
    return heading.inside[0].strip()


def test_its_histograms_count_every_saved_utterance(store, shown):
    saved = [line for line in ledger(store) if line["status"] == "saved"]
    seconds = np.array([line["duration_s"] for line in saved])
    edges = [0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 10, 15]
    counts, _edges = np.histogram(seconds, edges)
    rows = {label: int(number) for label, number in shown.rows("Duration")}
    for low, high, number in zip(edges[1:], edges[2:], counts[1:], strict=False):
        assert rows.get(f"{low:g} to {high:g}", 0) == number
    peaks = np.array([line["peak"] for line in saved])
    gains = 0.95 * 0.5 / peaks + 0.5  # docs/sweeps.md: maxx * alpha / peak + 1 - alpha
    for caption, column, levels in (
        ("Peak", 1, peaks),
        ("Peak", 2, peaks * gains),
        ("Gain", 1, gains),
    ):
        found = {row[0]: int(row[column]) for row in shown.rows(caption)}
        assert sum(found.values()) == len(saved)
        for label, number in found.items():
            if " to " in label:
                low, high = map(float, label.split(" to "))
                level = 20 * np.log10(levels)
                assert number == ((level >= low) & (level < high)).sum(), label
    clipped = dict(shown.rows("Clipped samples"))
    assert int(clipped["none"]) == sum(line["clipped_samples"] == 0 for line in saved)


def test_it_shows_what_stands_out_and_each_rejection_that_can_be_drawn(store, shown):
    found = {}
    for article in shown.all("article"):
        [heading] = article.all("h3")
        for why in heading.all("span", class_="why"):
            found.setdefault(why.text, []).append(name_in(heading))
    first = next(line["id"] for line in ledger(store) if line["status"] == "saved")
    assert found["first"] == [first.replace("\u202e", "\\u202e")]  # it would turn text around
    assert (found["loudest"], found["quietest"]) == (["loud.wav"], ["quiet.wav"])
    assert found["longest"] == ["long.wav"]
    rejected = {
        why.removeprefix("rejected: "): names
        for why, names in found.items()
        if why.startswith("rejected: ")
    }
    assert rejected == {
        "peak_above_gate": ["above.wav"],
        "silent": ["silent.wav"],
        "too_short": ["blip.wav"],
        "too_long": ["endless.wav"],
    }
    assert len(shown.all("article")) <= 12


def test_its_pictures_and_sounds_are_whole_and_of_the_utterance(shown):
    [article] = [one for one in shown.all("article") if name_in(one.all("h3")[0]) == "quiet.wav"]
    kinds = {one.attributes["class"]: decoded(one) for one in article.all("img")}
    assert set(kinds) == {"features", "strip"}
    assert kinds["features"].shape[1] == kinds["strip"].shape[1] == 49  # frames of a second
    assert all(picture.std() > 1 for picture in kinds.values())
    [audio] = article.all("audio")
    head, _, data = audio.attributes["src"].partition(";base64,")
    assert head == "data:audio/mpeg"
    with av.open(io.BytesIO(base64.b64decode(data))) as container:
        seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert seconds == pytest.approx(1.0, abs=0.1)
    [stack] = article.all("div", class_="stack")
    assert float(stack.attributes["data-seconds"]) == pytest.approx(1.0, abs=0.001)
    [long] = [one for one in shown.all("article") if name_in(one.all("h3")[0]) == "long.wav"]
    assert "plays: the first 12 s of the training audio" in long.text


def decoded(image) -> np.ndarray:
    """(rows, columns, 3) of a picture, by FFmpeg."""
    head, _, data = image.attributes["src"].partition(";base64,")
    assert head == "data:image/png"
    with av.open(io.BytesIO(base64.b64decode(data)), format="png_pipe") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_names_are_text_and_the_page_fetches_nothing(store, shown, tmp_path):
    elements = shown.all()
    known = "html head meta title style script body a header h1 h2 h3 nav ul li main section div"
    known += " article p dl dt dd span small table caption thead tbody tr th td details summary"
    known += " figure figcaption img audio pre code noscript"
    assert {one.tag for one in elements} <= set(known.split())
    for one in elements:
        assert not [key for key in one.attributes if key.startswith("on")]
        assert (one.attributes.get("src") or "data:").startswith("data:")
        assert (one.attributes.get("href") or "#").startswith("#")
    assert "<script>alert(1)<!--.wav" in set(map(name_in, shown.all("h3")))
    source = write(store, tmp_path / "report.html").read_text("utf8")
    ours = re.sub(r"<(script|style)>.*?</\1>", "", source, flags=re.DOTALL)
    for word in ("http:", "https:", "url(", "@import", "\x1b", "\u202e", "<script>"):
        assert word not in ours


def test_no_script_runs_but_those_of_this_package(shown):
    """A browser runs a script whose hash the policy names; `data:` and `blob:` are the page."""
    [policy] = shown.all("meta", **{"http-equiv": "Content-Security-Policy"})
    allowed = dict(one.split(" ", 1) for one in policy.attributes["content"].split("; "))
    assert allowed.pop("default-src") == "'none'"
    scripts = [one for one in shown.all("script") if "type" not in one.attributes]
    hashes = {hashlib.sha256(one.text.encode()).digest() for one in scripts}
    named = {f"'sha256-{base64.b64encode(one).decode()}'" for one in hashes}
    assert set(allowed.pop("script-src").split()) == named
    assert len(named) == len(scripts) == 4
    assert allowed.pop("style-src") == "'unsafe-inline'"
    assert set(" ".join(allowed.values()).split()) <= {"data:", "blob:", "'none'"}
    others = [one for one in shown.all("script") if "type" in one.attributes]
    assert {one.attributes["type"] for one in others} == {"application/json"}


def test_a_name_in_a_charts_numbers_is_text(tmp_path):
    name = "</script><script>alert(1)</script>"
    chart = charts.lines("Speed", "MB", {name: [(0.0, 1.0), (1.0, 2.0)]})
    template = pages._environment().get_template("macros.html")
    (tmp_path / "chart.html").write_text(str(template.module.chart(chart)))
    [data] = page(tmp_path / "chart.html").all("script")
    assert json.loads(data.text)["names"] == [name]


def test_it_can_be_read_without_eyes_and_without_a_mouse(shown):
    [html] = shown.all("html")
    assert html.attributes["lang"] == "en"
    assert all(one.attributes["alt"] for one in shown.all("img"))
    drawn = [one for one in shown.all("div") if one.attributes.get("role") == "img"]
    assert len(drawn) > 20
    assert all(one.attributes["aria-label"] for one in [*drawn, *shown.all("audio")])
    assert all("controls" in one.attributes for one in shown.all("audio"))
    for table in shown.all("table"):
        assert table.all("caption")[0].text
        assert all(one.attributes["scope"] in ("col", "row") for one in table.all("th"))
    levels = [int(one.tag[1]) for one in shown.all() if one.tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = [one.attributes["id"] for one in shown.all() if "id" in one.attributes]
    assert len(set(ids)) == len(ids)
    assert {one.attributes["href"][1:] for one in shown.all("a")} <= set(ids)


def test_an_old_store_without_metadata_timings_and_recordings_has_a_page(store, tmp_path):
    shutil.copytree(store, tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / ".extract")
    (tmp_path / "old" / "metadata.json").unlink()
    lines = (tmp_path / "old" / "ledger.jsonl").read_text("utf8").splitlines()
    gone = [json.dumps({**json.loads(line), "path": "/gone/a.wav"}) for line in lines]
    (tmp_path / "old" / "ledger.jsonl").write_text("\n".join(gone) + "\n")
    told = page(write(tmp_path / "old")).text
    for said in ("no metadata.json", "no timings", "command is not known", "no longer there"):
        assert said in told


def test_features_that_are_gone_or_damaged_are_said_to_be(store, tmp_path):
    shutil.copytree(store, tmp_path / "out")
    (tmp_path / "out" / "4-cnhubert" / "loud.wav.pt").unlink()
    (tmp_path / "out" / "4-cnhubert" / "quiet.wav.pt").write_bytes(b"PK")
    (tmp_path / "out" / "5-wav32k" / "long.wav").write_bytes(b"RIFF")
    articles = {name_in(a.all("h3")[0]): a for a in page(write(tmp_path / "out")).all("article")}
    for name in ("loud.wav", "quiet.wav"):
        assert "No features: " in articles[name].text
        assert not articles[name].all("img", class_="features")
    assert "plays: the first 12 s of the recording" in articles["long.wav"].text


def test_a_recording_that_changed_is_not_shown(recordings, store, tmp_path):
    shutil.copytree(recordings, tmp_path / "in")
    lines = (store / "ledger.jsonl").read_text("utf8")
    shutil.copytree(store, tmp_path / "out")
    escaped = json.dumps(str(recordings))[1:-1], json.dumps(str(tmp_path / "in"))[1:-1]
    (tmp_path / "out" / "ledger.jsonl").write_text(lines.replace(*escaped), "utf8")
    write_wav(tmp_path / "in" / "silent.wav", 0.7)
    headings = [one.text for one in page(write(tmp_path / "out")).all("h3")]
    assert any("endless.wav" in one for one in headings)
    assert not any("silent.wav" in one for one in headings)


def test_a_cut_is_not_shown_by_another_part_of_its_recording(tmp_path):
    write_wav(tmp_path / "in" / "a.wav", 2.0)
    (tmp_path / "list.jsonl").write_text(
        json.dumps({"audio_filepath": "in/a.wav", "id": "cut", "offset": 1.0, "duration": 0.5})
        + "\n"
    )
    options = ["dataset=jsonl", f"dataset.path={tmp_path / 'list.jsonl'}", "store=npy"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["extract"])
        assert main([*options, f"store.dir={tmp_path / 'out'}", *TINY]) == 0
    shown = page(write(tmp_path / "out"))
    assert "this is a cut of it" in shown.text
    assert len(shown.all("img", class_="features")) == 1
    assert shown.all("audio") == []


def test_features_that_a_sweep_shared_are_counted(tmp_path):
    store = fabricated(tmp_path / "store", 10)
    lines = [json.loads(line) for line in (store / "ledger.jsonl").read_text().splitlines()]
    for line in lines[1:4]:
        line["shared"] = "model-maxx0.9-alpha0.3"
    (store / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = page(write(store))
    cards = dict(zip(map(text, shown.all("dt")), map(text, shown.all("dd")), strict=True))
    assert (cards["saved"], cards["with shared features"]) == ("9", "3")
    assert shown.text.count("features shared with model-maxx0.9-alpha0.3") == 3


def fabricated(folder, num: int):
    """A store with a ledger alone: every tenth recording failed."""
    folder.mkdir()
    with (folder / "ledger.jsonl").open("w") as file:
        for number in range(num):
            record = {"id": f"speaker/{number:07}.wav", "path": f"/gone/{number:07}.wav"}
            if number % 10:
                record |= {"status": "saved", "peak": 0.5, "duration_s": 1 + number % 7}
            else:
                record |= {"status": "failed", "reason": "missing", "detail": "x" * 3000}
            file.write(json.dumps(record) + "\n")
    return folder


def test_the_page_of_many_utterances_is_small_and_says_what_is_sampled(tmp_path):
    path = write(fabricated(tmp_path / "store", 50_000))
    assert path.stat().st_size < 1_000_000
    shown = page(path)
    assert shown.rows("Why recordings gave no features") == [["missing", "failed", "5,000"]]
    assert len(shown.rows("missing, 20 of 5,000, drawn at random")) == 20


def test_speed_and_waiting_are_those_that_a_run_noted(tmp_path):
    store = fabricated(tmp_path / "store", 5)
    (store / ".extract").mkdir()
    lines = [{"began": "2026-01-02T03:04:05Z", "shard": "0-of-1", "device": "cuda:1"}]
    for n in range(6):
        waits = {"data_s": 2.0 * n, "encoder_s": 7.0 * n, "writer_s": 1.0 * n}
        memory = {"host_mb": 500 + n, "device_mb": 2000}
        lines.append({"s": 10.0 * n, "saved_s": 720.0 * n, "done": 100 * n, **waits, **memory})
    lines.append({"began": "2026-02-02T03:04:05Z", "shard": "<b>", "device": None})
    (store / ".extract" / "timings.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    shown = page(write(store))
    short, long = shown.rows("The last runs")
    assert short[:2] == ["2026-02-02T03:04:05Z", "<b>"]
    assert long[1:7] == ["0-of-1", "cuda:1", "500", "1.000", "50.0", "72.0"]
    assert long[7] == "recordings 20%, encoder 70%, disk 10%"
    labels = {one.attributes["aria-label"] for one in shown.all("div", class_="chart")}
    assert "Speed, times real time, over 50 s. speed ends at 72." in labels
    assert "Memory, MB, over 50 s. host ends at 505; device ends at 2,000." in labels
    drawn = [json.loads(one.text) for one in shown.all("script", type="application/json")]
    [speed, waiting, memory] = [one for one in drawn if one["kind"] == "lines"]
    assert (speed["x"], speed["values"]) == ([10.0, 20.0, 30.0, 40.0, 50.0], [[72.0] * 5])
    assert dict(zip(waiting["names"], waiting["values"], strict=True)) == {
        "recordings": [20.0] * 5,
        "encoder": [70.0] * 5,
        "disk": [10.0] * 5,
    }
    assert memory["values"] == [[500, 501, 502, 503, 504, 505], [2000] * 6]
    assert shown.rows("Memory")[-1] == ["50.0", "505", "2,000"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.25, "0.25"), (4970.4, "4,970"), (12_345, "12.3k"), (999_999, "1,000k"), (1.2e6, "1.2M")],
)
def test_a_chart_labels_large_numbers_in_short(number, text):
    assert in_short(number) == text


def test_the_same_store_has_the_same_page(tmp_path):
    store = fabricated(tmp_path / "store", 500)
    first, second = (write(store, tmp_path / name) for name in ("first.html", "second.html"))
    assert first.read_bytes() == second.read_bytes()


def test_what_is_held_of_a_ledger_does_not_grow_with_it():
    def peak(num: int) -> int:
        records = ({"id": f"{n}", "status": "saved", "units": f"{n} " * 2000} for n in range(num))
        tracemalloc.start()
        counted = Counted(None).add_all(records)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert counted.total == num
        return size

    peak(100)
    assert peak(3000) < 200_000  # of about 30 MB


@pytest.mark.parametrize("layout", choices.own("layouts"))
def test_features_of_every_layout_are_shown(layout, tmp_path):
    for number in range(2):
        write_wav(tmp_path / "in" / f"{number}.wav", 0.4 + 0.1 * number, number)
    assert extract_into(tmp_path / "out", tmp_path / "in", f"store={layout}") == 0
    shown = page(write(tmp_path / "out"))
    assert len(shown.all("img", class_="features")) == 2
    assert len(shown.all("audio")) == 2


def test_units_alone_have_a_page(tmp_path):
    fabricated(tmp_path / "store", 5)
    metadata = {"format": 1, "identity": {"layout": "npy", "features": False}, "made_with": {}}
    (tmp_path / "store" / "metadata.json").write_text(json.dumps(metadata))
    assert "damaged" in page(write(tmp_path / "store")).text


def test_a_page_beside_recordings_is_no_recording(tmp_path):
    write_wav(tmp_path / "in" / "a.wav")
    options = ["store=so_vits_svc", "dataset.extensions=[]"]
    assert extract_into(tmp_path / "in", tmp_path / "in", *options) == 0
    write(tmp_path / "in")
    assert extract_into(tmp_path / "in", tmp_path / "in", *options) == 0
    assert [line["id"] for line in ledger(tmp_path / "in")] == ["a.wav"]
