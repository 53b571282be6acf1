"""Hostile input, on every storage, through the public API: the fixtures are those of the engine's tests."""

from __future__ import annotations

from ..engine.conftest import clock, cluster, engine

__all__ = ["clock", "cluster", "engine"]
