# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What both drivers of NGINX do around a change: refuse what makes no sense, keep others out, and have servers proved."""

from __future__ import annotations

import abc
import contextlib
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._lock import LockError, exclusive
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import (
    Policy,
    Refused,
    Server,
    check_safe,
    check_wanted,
)


class NginxCalls(abc.ABC):
    """Times in seconds, as the options of nginx_upstream, but for two: ``unproved`` tells why servers are not to gain traffic after
    some seconds, "" where they are; ``admit`` is called under the lock, and raises where the upstream is not to be touched.
    """

    timeout: float
    drain_timeout: float
    health_timeout: float
    policy: t.Mapping[str, bool]
    unproved: t.Callable[[t.Sequence[Server], float], str]
    check_mode: bool
    admit: t.Callable[[], None]

    @abc.abstractmethod
    def locks(self, backend: str) -> t.Sequence[str]:
        """What a change of an upstream locks, in this order."""

    @property
    def patience(self) -> float:
        """Seconds to wait for other calls to end."""
        return self.timeout + self.health_timeout + self.drain_timeout

    def check(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> None:
        check_wanted(servers)

    def check_safe(self, safe: t.Mapping[str, t.Any]) -> None:
        check_safe(safe)

    @property
    def allowed(self) -> Policy:
        """Of ``policy`` what means something for NGINX."""
        return Policy(**{name: value for name, value in self.policy.items() if name in Policy._fields})

    @contextlib.contextmanager
    def alone(self, backend: str) -> t.Iterator[None]:
        """Two calls that each leave the other's server would together leave none. Check mode changes nothing, and waits for nobody."""
        try:
            with contextlib.ExitStack() as stack:
                for name in () if self.check_mode else self.locks(backend):
                    stack.enter_context(exclusive(name, self.patience))
                self.admit()
                yield
        except LockError as exc:
            raise Refused(f"cannot lock upstream {backend}: {exc}. Nothing was changed.") from exc

    def prove(self, backend: str, gains: t.Sequence[Server], warnings: list[str]) -> None:
        """See that servers may gain traffic. Raises Refused."""
        why = self.unproved(gains, 0.0 if self.check_mode else self.health_timeout) if gains else ""
        if why and self.check_mode:
            warnings.append(f"{why}; a real run would wait {self.health_timeout:g} s for it, then fail")
        elif why:
            raise Refused(f"upstream {backend}: {why} after {self.health_timeout:g} s. Nothing was changed.")
