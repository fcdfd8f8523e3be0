"""fairseq's text for convolutions is read as Python reads it, and never run."""

import tracemalloc

import pytest

from extract.models.formats.conv_layers import MAX_CHARACTERS, MAX_LAYERS, parse

PUBLISHED = [
    "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
    "[(512, 10, 5), (512, 8, 4)] + [(512, 4, 2)] * 3 + [(512, 1, 1)]",
    "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 3",
    " 2 * [(16, 3, 2)]\n",
    "[[16, 3, 2], [16, 2, 2]]",
    "([(1, 2, 3)] * 2) * 3",
]


@pytest.mark.parametrize("text", PUBLISHED)
def test_a_text_is_the_list_that_python_makes_of_it(text: str) -> None:
    assert parse(text) == [tuple(layer) for layer in eval(text, {"__builtins__": {}})]


def test_a_list_stays_as_it_is() -> None:
    assert parse([[512, 10, 5], (512, 3, 2)]) == [(512, 10, 5), (512, 3, 2)]


HOSTILE = [
    "__import__('os').mkdir('proof')",
    "[(512, 10, 5)] + [open('proof', 'w')]",
    "[(512, 10, 5)] * 10**9",
    "[(512, 10, 5)] * 10000000",
    "[(512, 10, 5)] * 50 * 50",
    "[(512, 10, 5)] * -1",
    "[(512, 10, 5)] * True",
    "[(512, 10, 5)] - [(1, 1, 1)]",
    "[(512, 10, 5) for _ in range(3)]",
    "[(512, 10)]",
    "[(512, 10, 5, 1)]",
    "[(512, 10, 5.0)]",
    "[(512, 10, True)]",
    "[('512', 10, 5)]",
    "[512, 10, 5]",
    "[]",
    "5",
    "",
    "[(512, 10, 5)",
    "(" * 900,
    "-" * 999 + "1",
    "[" * 400 + "]" * 400,
    "[(1, 1, 1)]" + " " * MAX_CHARACTERS,
    f"[(1, 1, 1)] * {MAX_LAYERS + 1}",
    "\0",
    "[(" + "9" * 900 + ", 1, 1)] * 2 +",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_anything_else_is_refused_and_not_run(tmp_path, monkeypatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^conv_feature_layers is ") as caught:
        parse(text)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000  # bytes; a parser's own, not those of what a text would be
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [5, {"a": 1}, [5], [[1, 2, "3"]], [[1, 1, 1]] * 10**6])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^conv_feature_layers is ") as caught:
        parse(value)
    assert len(str(caught.value)) < 500
