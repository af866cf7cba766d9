"""Resident memory of this process, as Linux tells it. Own work."""

from __future__ import annotations

from pathlib import Path

NOW, PEAK = "VmRSS", "VmHWM"


def megabytes(kind: str) -> float:
    """Args: kind: NOW, or PEAK since the start or `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def forget_peak() -> None:
    """The peak begins anew, at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
