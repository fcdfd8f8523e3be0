"""Helpers of the tests, each here once."""
