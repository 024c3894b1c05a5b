"""The one error that ends a stage before its tests could run."""

from __future__ import annotations


class SetupError(Exception):
    """Something the tests need is not there; the message says in one sentence what, and what to do."""
