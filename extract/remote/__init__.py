"""Recordings at URLs: what fsspec reads, opened as files."""
