"""The tables of docs/scale.md are those of the code's constants and of the measurements."""

from support import scale_page


def test_the_tables_of_the_page_of_scale_are_computed_from_the_code():
    text = scale_page.PAGE.read_text("utf8")
    assert scale_page.page(text) == text
    assert text.count("<!-- computed: ") == len(scale_page.TABLES)


def test_the_page_of_scale_says_the_constants_that_its_formulas_use():
    text = scale_page.PAGE.read_text("utf8")
    for number in scale_page.CONSTANTS:
        assert f"{number:,}" in text, number


def test_archives_and_units_are_what_the_page_says_of_them():
    rows = {line.split(" | ")[0]: line for line in scale_page.storage().splitlines()}
    files, archives = (rows[f"| `{name}`, 768 numbers, float16"] for name in ("npy", "webdataset"))
    assert int(archives.split(" | ")[3].replace(",", "")) < 200_000 < scale_page.UTTERANCES
    assert files.split(" | ")[1] == "76,800"
    units = int(next(row for row in rows.values() if "units" in row).split(" | ")[1])
    assert round(76_800 / units, -2) == 300
