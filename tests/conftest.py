"""What holds for the tests of every stage."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes depends on what else this machine does: the tests' own timeout is the limit.
# The oldest Python only has to show that it agrees; the newest does the searching.
settings.register_profile("default", settings.get_profile("default"), deadline=None)
settings.register_profile("few", deadline=None, max_examples=20)
settings.load_profile("default")
