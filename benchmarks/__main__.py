"""Runs all CPU benchmarks: `python -m benchmarks [--only NAME ...] [--json FILE]`."""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks import (
    audio,
    counted,
    encoder,
    engines,
    families,
    memory,
    padding,
    reading,
    rival,
    run,
    scale,
    startup,
    sweep,
    writer,
)
from benchmarks.common import Row, guarded, head, show

BENCHMARKS = {
    "audio": audio.measure,
    "encoder": encoder.measure,
    "families": families.measure,
    "rival": rival.measure,
    "padding": padding.measure,
    "counted": counted.measure,
    "startup": startup.measure,
    "scale": partial(scale.measure, scale.NUMBERS[:2]),
    "writer": writer.measure,
    "reading": reading.measure,
    "memory": memory.measure,
    "run": run.measure,
    "sweep": sweep.measure,
    "engines": engines.measure,
}


def main() -> None:
    """Runs the chosen benchmarks and prints one table of their rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--json", type=Path, help="write the table as JSON to this file")
    options = parser.parse_args()
    about = head()
    rows: list[Row] = []
    start = time.monotonic()
    for name in options.only:
        print(f"{time.monotonic() - start:5.0f} s  {name}", file=sys.stderr, flush=True)
        rows += guarded(name, BENCHMARKS[name])
    about["duration"] = f"{time.monotonic() - start:.0f} s"
    show(rows, options.json, about)


if __name__ == "__main__":
    main()
