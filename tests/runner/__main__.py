"""`python3 -m runner`, as `./test` calls it."""

from __future__ import annotations

from runner.cli import main

raise SystemExit(main())
