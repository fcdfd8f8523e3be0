"""The layouts that tests run on: each by its name, and some with an option of theirs."""

from extract import choices
from extract.options import schema_of

VARIANTS = {"npy_subfolders": ("store=npy", "store.subfolders=1")}
EVERY = (*choices.own("layouts"), *VARIANTS)


def words(layout: str) -> tuple[str, ...]:
    """What the command line says to choose one of `EVERY`."""
    return VARIANTS.get(layout, (f"store={layout}",))


def options(layout: str, **more: object):
    """The options of one of `EVERY`, as Python has them."""
    said = dict(word.split("=") for word in words(layout)[1:])
    said = {name.removeprefix("store."): int(value) for name, value in said.items()}
    name = name_of(layout)
    return schema_of("store", name)(layout=name, **said, **more)


def name_of(layout: str) -> str:
    """The name of the layout's module."""
    return words(layout)[0].removeprefix("store=")
