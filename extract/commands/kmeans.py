"""`python -m extract kmeans STORE... --clusters 500`: learns k-means centres of stores' features.

Writes the centres as FILE.npy, (clusters, dimensions) float32, and beside them FILE.json, which
says of which features they are. They make units: quantizer=kmeans quantizer.path=FILE.npy.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from extract import exits
from extract.run.signals import Stop
from extract.text import count, printable

if TYPE_CHECKING:
    from extract.training.kmeans import Fitted
    from extract.training.kmeans_fit import Settings
    from extract.training.store_frames import StoreFrames

SAY_EVERY_S = 5.0

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Learns the centres, and prints what they are of and how well they fit.

    A call that was killed is taken up by the next one, with the same centres.

    Returns:
        0: the centres are there; 1: the file cannot be written; 2: nothing was done: no store, no
        such layer, features of different kinds, too few frames, or another file there; 130, 143:
        after a signal.
    """
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)

    def work(stop: Stop) -> exits.Exit:
        finished = _kmeans(options, stop)
        return exits.DONE if finished or not stop() else exits.stopped(stop.signal_name or "")

    return exits.of_command(work).code


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("extract kmeans", description=__doc__, formatter_class=form)
    parser.add_argument(
        "stores", metavar="STORE", nargs="+", help="a run's folder; several are of one kind"
    )
    parser.add_argument("--clusters", type=int, default=500, help="how many centres (500)")
    parser.add_argument(
        "--output", metavar="FILE.npy", help="the file; without it STORE.kmeansN.npy, beside STORE"
    )
    parser.add_argument("--layer", type=int, help="which one, of a store of several layers")
    some = parser.add_mutually_exclusive_group()
    some.add_argument(
        "--fraction", type=float, default=1.0, help="of the frames to use, in whole utterances (1)"
    )
    some.add_argument("--frames", type=int, help="to use, in whole utterances")
    parser.add_argument("--epochs", type=int, default=5, help="how often each is used (5)")
    parser.add_argument("--batch-size", type=int, default=10_000, help="frames of a step (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (0)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    return parser


def _kmeans(options: argparse.Namespace, stop: Callable[[], bool]) -> bool:
    """Writes the centres; returns False if it was stopped before."""
    from extract.training.kmeans_fit import Settings  # NumPy
    from extract.training.store_frames import StoreFrames

    settings = Settings(options.clusters, options.epochs, options.batch_size, options.seed)
    _check_amount(options)
    stores = [Path(store).expanduser() for store in options.stores]
    output = _output(options, stores[0])
    drawn = StoreFrames(
        stores,
        layer=options.layer,
        fraction=options.fraction,
        most=options.frames,
        seed=options.seed,
    )
    with drawn as frames:
        fitted = _fitted(frames, settings, output, stop)
    if fitted.finished:
        fitted.save(output, frames.kind, stores=[str(store) for store in stores])
        _checkpoint(output).unlink(missing_ok=True)
        print(_said(output, fitted))  # noqa: T201
    return fitted.finished


def _fitted(
    frames: StoreFrames, settings: Settings, output: Path, stop: Callable[[], bool]
) -> Fitted:
    from extract.training.kmeans import fit_kmeans

    log.info("%s", _plan(frames))
    return fit_kmeans(
        frames,
        **vars(settings),
        checkpoint=_checkpoint(output),
        made_of=frames.fingerprint,
        progress=_Progress(settings.epochs, frames.num_frames),
        stop=stop,
    )


def _checkpoint(output: Path) -> Path:
    return output.with_name(f"{output.name}.checkpoint")


def _check_amount(options: argparse.Namespace) -> None:
    if not 0 < options.fraction <= 1:
        raise ValueError(f"--fraction {options.fraction}: needed more than 0, at most 1")
    if options.frames is not None and options.frames < 1:
        raise ValueError(f"--frames {options.frames}: needed at least 1")


def _output(options: argparse.Namespace, store: Path) -> Path:
    """Where the centres go: outside the store, since they outlive it and may be of several."""
    if options.output is not None:
        path = Path(options.output).expanduser()
    else:
        layer = "" if options.layer is None else f".layer{options.layer}"
        folder = store.resolve()
        path = folder.with_name(f"{folder.name}{layer}.kmeans{options.clusters}.npy")
    if path.suffix != ".npy":
        raise ValueError(f"--output {printable(str(path))}: needed a name that ends in .npy")
    if path.exists() and not options.overwrite:
        raise ValueError(
            f"{printable(str(path))}: is there already; --overwrite replaces it, --output FILE.npy "
            "names another"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _plan(frames: StoreFrames) -> str:
    kind = ", ".join(f"{key}={value}" for key, value in frames.kind.items())
    return f"{frames.num_frames:,} frames of {count(frames.num_utterances, 'utterance')}: {kind}"


class _Progress:
    """Logs how far the fit is, every few seconds."""

    def __init__(self, epochs: int, num_frames: int) -> None:
        self._epochs, self._num_frames = epochs, num_frames
        self._said = time.monotonic()

    def __call__(self, epoch: int, frames: int, inertia: float) -> None:
        if time.monotonic() - self._said >= SAY_EVERY_S:
            self._said = time.monotonic()
            of = f"{frames:,} of {self._num_frames:,} frames"
            log.info("epoch %d of %d, %s: inertia %.5g", epoch + 1, self._epochs, of, inertia)


def _said(output: Path, fitted: Fitted) -> str:
    clusters, dimensions = fitted.centres.shape
    return (
        f"{printable(str(output))}: {clusters:,} centres of {dimensions:,} numbers, of "
        f"{fitted.num_frames:,} frames; inertia {fitted.inertia:.5g} a frame"
    )
