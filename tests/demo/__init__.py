# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `./demo` is made of: releases on a local fleet under load, told so that a person can follow.

`python -m demo` reads the command line and sets up, with the standard library only; `demo.show` runs in the environment
that was made.
"""
