"""What holds for the tests of every stage."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes depends on what else this machine does: the tests' own timeout is the limit.
# The same examples each time, so that a failure is one of the change at hand; with --all others are searched for.
# The oldest Python only has to show that it agrees.
settings.register_profile("default", settings.get_profile("default"), deadline=None, derandomize=True)
settings.register_profile("few", settings.get_profile("default"), max_examples=20)
settings.register_profile("search", settings.get_profile("default"), derandomize=False)
settings.load_profile("default")
