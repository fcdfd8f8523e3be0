"""The formats of files of units: each module is a choice of the option `quantizer.format`."""
