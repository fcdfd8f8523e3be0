"""Parses fairseq's `conv_feature_layers`: `[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2`.

fairseq evaluates the text as Python. This parser accepts numbers, lists, tuples, `+` and `*` only.
"""

import ast
from typing import Any, NoReturn

from extract.models.settings import shown

MAX_CHARACTERS = 1_000
MAX_LAYERS = 100  # a bound for hostile files; models have 7 or 8

Layer = tuple[int, int, int]  # channels, kernel, stride


def parse(written: Any) -> list[Layer]:
    """The layers (channels, kernel, stride) of `conv_feature_layers`, a text or a list.

    Raises:
        ValueError: it is not a list of triples of whole numbers, or it is too long.
    """
    try:
        if not isinstance(written, str):
            return _layers(written)
        if len(written) > MAX_CHARACTERS:
            raise ValueError
        return _layers(_value(ast.parse(written.strip(), mode="eval").body))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        _refuse(written)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(int() as number) if not isinstance(number, bool):
            return number
        case ast.List(elements) | ast.Tuple(elements):
            return [_value(element) for element in elements]
        case ast.BinOp(left, ast.Add(), right):
            return _list(_value(left)) + _list(_value(right))
        case ast.BinOp(left, ast.Mult(), right):
            return _repeated(_value(left), _value(right))
    raise ValueError


def _repeated(left: Any, right: Any) -> list[Any]:
    if isinstance(left, int):
        left, right = right, left
    if not isinstance(right, int) or not 0 <= right <= MAX_LAYERS:
        raise ValueError
    return _list(_list(left) * right)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_LAYERS:
        raise ValueError
    return value


def _layers(value: Any) -> list[Layer]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_LAYERS:
        raise ValueError
    return [_layer(item) for item in value]


def _layer(item: Any) -> Layer:
    if not isinstance(item, list | tuple) or len(item) != 3:
        raise ValueError
    channels, kernel, stride = item
    for number in item:
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError
    return channels, kernel, stride


def _refuse(written: Any) -> NoReturn:
    raise ValueError(
        f"conv_feature_layers is {shown(written)}; needed is a list of 1 to {MAX_LAYERS} (channels,"
        " kernel, stride), written with + and *"
    ) from None
