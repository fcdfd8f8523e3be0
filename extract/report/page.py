"""The page: its sections around what was counted and drawn. One file that asks no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from extract.report.markup import Content, Markup, joined, tag

# The page runs no script and fetches nothing: a name with HTML in it could do neither.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #5b6068; --paper: #fff; --box: #f4f5f7;
  --line: #d5d8dd; --one: #2463c9; --two: #b4530a; --three: #1b7a4b; --bad: #a4161a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e9eb; --dim: #a3a9b3; --paper: #15171a;
  --box: #1f2226; --line: #3a3f46; --one: #7fb0ff; --two: #f2a65a; --three: #6fd3a0; --bad:
  #ff8f8f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; color: var(--ink); background:
  var(--paper); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; padding-top: .5rem; border-top: 1px solid
  var(--line); }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 .75rem; }
a { color: var(--one); }
small, figcaption, .key { color: var(--dim); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: .5rem 0;
  list-style: none; }
nav a { display: inline-block; padding: .25rem 0; }
dl.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap:
  .5rem; margin: 1rem 0; }
dl.cards div { background: var(--box); border-radius: .5rem; padding: .5rem .75rem; }
dt { color: var(--dim); font-size: .875rem; }
dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.grid-of { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr));
  gap: 1rem; align-items: start; }
figure, article { margin: 0; background: var(--box); border-radius: .5rem; padding: .75rem;
  min-width: 0; }
figcaption { font-weight: 600; color: var(--ink); }
svg { display: block; width: 100%; height: auto; }
article svg { height: 4rem; }
svg text { fill: var(--dim); font-size: 10px; }
.grid { stroke: var(--line); fill: none; }
.one { fill: var(--one); background: var(--one); }
.two { fill: var(--two); background: var(--two); }
.three { fill: var(--three); background: var(--three); }
.line { fill: none; stroke-width: 1.5; }
.line.one { stroke: var(--one); }
.line.two { stroke: var(--two); stroke-dasharray: 5 2; }
.line.three { stroke: var(--three); stroke-dasharray: 2 2; }
.swatch { display: inline-block; width: .75rem; height: .75rem; margin: 0 .35rem 0 0;
  border-radius: 2px; }
.key > span { margin-right: 1rem; }
.key { margin: 0; font-size: .875rem; }
img { display: block; width: 100%; border-radius: 2px; }
.mel { height: 5rem; }
.features { height: 6rem; }
.mel, .features, .strip { image-rendering: pixelated; }
.strip { height: 1rem; }
.player { margin: .5rem 0 0; }
audio { display: block; width: 100%; }
article small { display: block; margin-bottom: .25rem; font-size: .75rem; }
.axis { display: flex; justify-content: space-between; border-top: 1px solid var(--line); }
.why { display: inline-block; font-weight: 400; font-size: .75rem; border: 1px solid var(--line);
  border-radius: 1rem; padding: 0 .5rem; margin-right: .25rem; color: var(--dim); }
.none { color: var(--dim); font-style: italic; }
.bad { color: var(--bad); }
.scrolls { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric:
  tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom:
  1px solid var(--line); }
td { min-width: 4rem; }
thead th { white-space: nowrap; color: var(--dim); }
tbody th { font-weight: 400; min-width: 10rem; }
pre { background: var(--box); border-radius: .5rem; padding: .75rem; white-space: pre-wrap; }
details caption { position: absolute; width: 1px; height: 1px; overflow: hidden; padding: 0;
  clip-path: inset(50%); }
summary { cursor: pointer; padding: .25rem 0; }
:focus-visible { outline: 3px solid var(--one); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { position: static; }
@media print { audio { display: none; } article, figure { break-inside: avoid; } }
"""


def section(anchor: str, title: str, *content: Content) -> Markup:
    """A section with its heading."""
    heading = tag("h2", title, id=anchor)
    return tag("section", heading, content, aria_labelledby=anchor)


def page(title: str, links: Iterable[tuple[str, str]], body: Iterable[Markup]) -> Iterator[bytes]:
    """The page in parts, made as they are asked for.

    Args:
        title: of the page.
        links: anchor and title of each section.
        body: the sections.
    """
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    ]
    items = [tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name in links]
    start = [
        tag("a", "To the content", href="#content", class_="skip"),
        tag("header", tag("h1", title), tag("nav", tag("ul", items), aria_label="Sections")),
    ]
    yield f'<!doctype html>\n<html lang="en"><head>{joined(head)}</head><body>'.encode()
    yield f'{joined(start)}<main id="content">\n'.encode()
    for part in body:
        yield f"{part}\n".encode()
    yield b"</main></body></html>\n"
