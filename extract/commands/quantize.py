"""`python -m extract quantize STORE`: makes units of the features in a store, without its model."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from extract import choices, exits
from extract.run.signals import Stop
from extract.store.export import output_path


def main(argv: Sequence[str]) -> int:
    """Adds units to the lines of a store's ledgers, and writes each shard's file of them.

    Units that are there already are kept. A call that was killed is taken up by the next one.

    Returns:
        0: every saved utterance has units; 1: features of some are damaged or gone, the disk takes
        no more, or `--output` cannot be written; 2: nothing was done: no store, no such quantizer,
        features of another kind, other units there, or a run works there; 130, 143: after a signal.
    """
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)

    def work(stop: Stop) -> exits.Exit:
        num_without = _quantize(options, stop)
        if stop():
            return exits.stopped(stop.signal_name or "")
        if not num_without:
            return exits.DONE
        sys.stderr.write(
            f"{num_without:,} without units: their features are damaged or gone. The command that "
            "made the store encodes them again, with the same quantizer\n"
        )
        return exits.SOME_FAILED

    return exits.of_command(work).code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("extract quantize", description=__doc__)
    parser.add_argument("store", metavar="STORE", help="the folder that holds ledger.jsonl")
    names = [name for name in choices.names("quantizers") if name != "none"]
    parser.add_argument("--quantizer", required=True, choices=names)
    parser.add_argument("--path", metavar="FILE", help="the quantizer's: s2G.pth, centres.npy")
    parser.add_argument(
        "--format",
        choices=choices.names("unit_formats"),
        help="of the file of units; without it gpt_sovits for that quantizer, else gslm",
    )
    merge = argparse.BooleanOptionalAction
    parser.add_argument("--dedup", action=merge, help="merge repeats of a unit in the file")
    parser.add_argument("--layer", type=int, help="which one, of a store of several layers")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--list",
        metavar="FILE",
        help="a list whose order the file of units takes: fairseq's (.tsv) or GPT-SoVITS's; "
        "without it recordings come as in a folder: its files by name, then its sub-folders",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write one file of all shards there, in the place of one a shard in the store",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another quantizer's")
    return parser


def _quantize(options: argparse.Namespace, stop: Callable[[], bool]) -> int:
    """Makes the units; returns how many saved utterances have none after that."""
    from extract.run.quantize import quantize, quantizer_options  # torch

    path = options.path and str(Path(options.path).expanduser())
    store = Path(options.store).expanduser()
    return quantize(
        store,
        quantizer_options(options.quantizer, path=path, format=options.format, dedup=options.dedup),
        device=options.device,
        layer=options.layer,
        order=options.list,
        output=options.output and output_path("--output", options.output, store),
        overwrite=options.overwrite,
        stop=stop,
    )
