"""The page of a sweep in a real browser: what is drawn, played, sorted and made as loud."""

import math
import re
from pathlib import Path

import pytest

from extract.report.sweep.write import write
from support import browser
from support.browser import SCHEMES, SIZES, chromium, opened

STORES = [f"{alpha}-{maxx}" for alpha in (0.3, 0.5, 0.7) for maxx in (0.9, 0.95)]
NUM_UTTERANCES = 6

# Volumes and levels of each group: [[[volume, LUFS], ...], ...]
VOLUMES = """() => [...document.querySelectorAll('.group')].map((group) =>
    [...group.querySelectorAll('audio')].map((one) => [one.volume, Number(one.dataset.level)]))"""


@pytest.fixture(scope="module")
def chrome():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def path(level_sweep, tmp_path_factory) -> Path:
    return write([level_sweep / name for name in STORES], tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def sweep(chrome, path):
    with opened(chrome, path) as found:
        yield found


def test_it_fits_and_has_no_barriers_at_each_width_in_light_and_dark(sweep):
    for size in SIZES:
        for scheme in SCHEMES:
            page = sweep.look(size, scheme)
            assert browser.overflow(page) == []
            assert browser.barriers(page) == []


def test_all_charts_and_waveforms_are_drawn_and_no_name_is_a_script(sweep):
    page = sweep.look()
    assert page.locator(".chart").count() == 8
    assert page.locator(".stack.ready").count() == NUM_UTTERANCES * len(STORES)
    found = browser.pictures(page)
    assert len(found) >= 8 + NUM_UTTERANCES * len(STORES)
    assert all(width > 0 and height > 0 for width, height, _drawn in found)
    assert sum(drawn for *_size, drawn in found) >= 8 + NUM_UTTERANCES * len(STORES)
    assert page.get_by_role("heading", name="<script>alert(1)<!--.wav").count() == 1


def test_the_table_sorts_by_numbers_with_the_keyboard(sweep):
    page = sweep.look()
    drift = page.locator(".jobs tbody tr").first.locator(":nth-child(14)")
    assert "e-" in drift.inner_text()  # as all of them
    drift.evaluate("(cell) => { cell.textContent = '0.0012'; }")
    for name in ("audio.maxx", "LUFS", "drift"):
        button = page.locator(".jobs thead button").filter(has_text=re.compile(f"^{name}$"))
        column = button.evaluate("(one) => one.parentElement.cellIndex")
        for order in (1, -1):
            button.focus()
            page.keyboard.press("Enter")
            cells = page.locator(f".jobs tbody tr :nth-child({column + 1})").all_inner_texts()
            values = [float(cell) for cell in cells]
            assert values == sorted(values)[::order]


def test_each_sound_is_made_as_loud_as_the_quietest_of_its_group(sweep):
    page = sweep.look()
    box = page.get_by_label("Level-matched")
    assert {volume for group in page.evaluate(VOLUMES) for volume, _level in group} == {1}
    box.focus()
    page.keyboard.press("Space")
    groups = page.evaluate(VOLUMES)
    assert len(groups) == NUM_UTTERANCES
    for group in groups:
        quietest = min(level for _volume, level in group)
        for volume, level in group:
            assert level + 20 * math.log10(volume) == pytest.approx(quietest, abs=1e-3)
        assert max(level for _volume, level in group) > quietest + 0.5
    told = page.locator(".group .level").all_inner_texts()
    assert sum("played at −" in text for text in told) == NUM_UTTERANCES * (len(STORES) - 1)
    box.uncheck()
    assert {volume for group in page.evaluate(VOLUMES) for volume, _level in group} == {1}
    assert not any("played at" in text for text in page.locator(".level").all_inner_texts())


def test_a_player_plays_and_one_button_plays_all_of_a_group_in_a_row(sweep):
    page = sweep.look()
    page.evaluate(
        """() => {
          window.played = [];
          for (const one of document.querySelectorAll('audio'))
            one.addEventListener('ended', () =>
                played.push([one.getAttribute('aria-label'), one.currentTime]));
        }"""
    )
    group = page.locator(".group").filter(has_text="0.wav")  # the shortest
    labels = [one.get_attribute("aria-label") for one in group.locator("audio").all()]
    button = group.get_by_role("button")  # of whatever name
    assert button.inner_text() == "Play all in a row"
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => played.length === {len(labels)}")
    played = page.evaluate("played")
    assert [label for label, _second in played] == labels
    assert all(second > 0.3 for _label, second in played)
    assert button.inner_text() == "Play all in a row"
    button.click()
    page.wait_for_function("() => document.querySelectorAll('.take.playing').length === 1")
    assert button.inner_text().startswith("Stop (")
    button.click()
    page.wait_for_function("() => document.querySelector('.take.playing') === null")
    assert page.evaluate("[...document.querySelectorAll('audio')].every((one) => one.paused)")


def test_without_a_script_players_table_and_levels_are_there(chrome, path):
    with opened(chrome, path, script=False) as found:
        page = found.look("phone")
        assert page.locator("audio[controls]").count() == NUM_UTTERANCES * len(STORES)
        assert page.get_by_role("row").count() == 1 + len(STORES)
        assert (
            page.get_by_label("Level-matched").count() == 0
            or not page.get_by_label("Level-matched").is_visible()
        )
        assert browser.overflow(page) == []


def test_nothing_went_wrong_and_nothing_was_asked_of_a_network(sweep):
    assert (sweep.problems, sweep.requests) == ([], [])
