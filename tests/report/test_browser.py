"""The page in a real browser: it draws, plays, sorts, fits, and asks nothing of the network."""

import json
import shutil

import pytest

from extract.report.run import write
from support import browser
from support.browser import SCHEMES, SIZES

CHARTS = 8  # five histograms and three time lines


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def file(store, tmp_path_factory):
    """The page of a store with a failed recording named `<script>`, and a run over time."""
    copy = tmp_path_factory.mktemp("page") / "<script>alert(3)<"
    shutil.copytree(store, copy)
    began = {"began": "2026-01-02T03:04:05Z", "shard": "0-of-1", "device": "cuda:1", "command": "x"}
    lines = [began, {"s": 9.0}, began]  # a run that ended at once, and one of 50 s
    for n in range(6):
        waits = {"data_s": 2.0 * n, "encoder_s": 7.0 * n, "writer_s": 1.0 * n}
        memory = {"host_mb": 500 + n, "device_mb": 2000}
        lines.append({"s": 10.0 * n, "saved_s": 720.0 * n, "done": 100 * n, **waits, **memory})
    with (copy / ".extract" / "timings.jsonl").open("a") as timings:
        timings.write("".join(json.dumps(line) + "\n" for line in lines))
    return write(copy)


@pytest.fixture(scope="module")
def opened(chromium, file):
    with browser.opened(chromium, file) as opened:
        yield opened
        assert opened.problems == []  # what a test has done to the page included
        assert opened.requests == []


def test_it_says_no_error_and_asks_nothing_of_the_network(opened):
    assert opened.problems == []
    assert opened.requests == []


@pytest.mark.parametrize("size", SIZES)
def test_every_picture_is_drawn(opened, size):
    page = opened.look(size)
    images, waves, mels = (page.locator(one).count() for one in ("img", ".wave", ".mel"))
    assert waves == page.locator("audio").count() == 12
    assert mels == waves - 1  # blip.wav is shorter than the window of a spectrogram
    found = browser.pictures(page)
    # Of a waveform there are two: as it is, and as far as it was played.
    assert len(found) == images + CHARTS + 2 * waves + mels
    assert all(width > 0 and height > 0 and shows for width, height, shows in found)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_an_utterance_share_one_time_axis(opened, size):
    page = opened.look(size)
    article = page.locator("article", has=page.locator("h3", has_text="quiet.wav"))
    boxes = [article.locator(one).bounding_box() for one in (".wave", ".mel", ".axis")]
    assert len({(round(box["x"]), round(box["width"])) for box in boxes}) == 1
    features = article.locator("img.features").bounding_box()
    assert features["x"] == boxes[0]["x"]
    assert features["width"] / boxes[0]["width"] == pytest.approx(0.98, abs=0.005)  # 49 of 50


def test_a_player_plays_by_keyboard_and_its_cursor_moves_and_another_one_stops_it(opened):
    page = opened.look()
    article = page.locator("article", has=page.locator("h3", has_text="long.wav"))
    first, second = article.locator("audio"), page.locator("audio").nth(1)
    first.focus()
    page.keyboard.press("Space")
    page.wait_for_function(
        "([audio, cursor]) => audio.currentTime > 0.1 && parseFloat(cursor.style.left) > 0",
        arg=[first.element_handle(), article.locator(".stack > .cursor").element_handle()],
    )
    second.evaluate("(audio) => audio.play()")
    page.wait_for_function(
        "(audio) => audio.paused && audio.currentTime < 11", arg=first.element_handle()
    )
    assert not second.evaluate("(audio) => audio.paused")
    second.evaluate("(audio) => audio.pause()")


PLAYS_FROM = """(audio) => new Promise((done) => {
  audio.addEventListener('timeupdate', () => done(audio.currentTime), { once: true });
  audio.play();
})"""


def test_a_click_into_the_waveform_or_the_features_goes_there(opened):
    page = opened.look()
    article = page.locator("article", has=page.locator("h3", has_text="long.wav"))  # of 12 s
    for picture in (".wave", "img.features"):
        box = article.locator(picture).bounding_box()
        article.locator(picture).click(position={"x": box["width"] / 2, "y": box["height"] / 2})
        assert article.locator("audio").evaluate(PLAYS_FROM) > 5
        article.locator("audio").evaluate("(audio) => { audio.pause(); audio.currentTime = 0; }")


def column(table, place):
    return table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()


def test_a_table_sorts_by_click_and_by_keyboard(opened):
    page = opened.look()
    table = page.locator("table", has=page.locator("caption", has_text="Why recordings gave no"))
    heads = table.locator("thead th")
    before = column(table, 1)
    heads.nth(0).locator("button").click()
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    assert column(table, 1) == sorted(before)
    heads.nth(0).locator("button").focus()
    page.keyboard.press("Enter")
    assert heads.nth(0).get_attribute("aria-sort") == "descending"
    assert column(table, 1) == sorted(before, reverse=True)
    heads.nth(2).locator("button").focus()
    page.keyboard.press("Space")
    assert heads.nth(0).get_attribute("aria-sort") == "none"
    numbers = [int(text) for text in column(table, 3)]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 1


def test_numbers_sort_by_value_and_not_by_their_digits(opened):
    page = opened.look()
    table = page.locator("table", has=page.locator("caption", has_text="The last runs"))
    seconds = table.locator("thead th", has_text="seconds")
    seconds.locator("button").click()
    found = [float(text) for text in column(table, 6)]
    assert found == sorted(found)
    assert found[-2:] == [9.0, 50.0]


@pytest.mark.parametrize("size", SIZES)
def test_nothing_sticks_out_of_the_window(opened, size):
    assert browser.overflow(opened.look(size)) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_no_serious_barrier(opened, scheme):
    assert browser.barriers(opened.look("phone", scheme)) == []


def test_it_is_dark_where_the_system_is_and_its_charts_follow(opened):
    background = "getComputedStyle(document.body).backgroundColor"
    light = opened.look("desk", "light")
    drawn = "document.querySelector('.chart canvas').toDataURL()"
    colours = [(light.evaluate(background), light.evaluate(drawn))]
    dark = opened.look("desk", "dark")
    dark.wait_for_function(f"(light) => {drawn} !== light", arg=colours[0][1])
    assert colours[0][0] == "rgb(255, 255, 255)"
    assert dark.evaluate(background) == "rgb(21, 23, 26)"


def test_a_name_of_html_is_text(opened):
    page = opened.look()
    assert page.locator("h1").inner_text() == "Extraction report: <script>alert(3)<"
    assert page.locator("td, th", has_text="<script>alert(2)<!--.wav").count()
    headings = page.locator("h3").all_inner_texts()
    assert any(one.startswith("<script>alert(1)<!--.wav") for one in headings)
    assert not page.locator("img[src=x], script:has-text('alert(1)')").count()


def test_without_script_the_players_pictures_and_tables_are_there(chromium, file):
    with browser.opened(chromium, file, script=False) as opened:
        page = opened.page
        assert opened.requests == []
        for audio in page.locator("audio").all():
            assert audio.get_attribute("controls") is not None
            assert audio.bounding_box()["height"] >= 30
        assert all(one.bounding_box()["width"] > 100 for one in page.locator("img").all())
        assert not page.locator(".drawn").first.is_visible()
        assert "need JavaScript" in page.locator("noscript").inner_text()
        assert page.locator("thead button").count() == 0
