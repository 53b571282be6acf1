"""The test kit: a clock that jumps, and the storage contract as tests."""

from .clock import VirtualClock

__all__ = ["VirtualClock"]
