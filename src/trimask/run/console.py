"""The one console that trimask prints to; 120 columns where the output is no terminal."""

from __future__ import annotations

import sys

from rich.console import Console

console = Console(width=None if sys.stdout.isatty() else 120)
