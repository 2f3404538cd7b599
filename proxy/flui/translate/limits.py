"""How deep and how many: what a message may be in either form (threats of nested input)."""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 64
"""Levels of objects, lists, messages or groups within one another."""
MAX_GROUPS: Final = 8
"""Levels of groups within a group that is walked: each is looked through for its end by every one above it."""
MAX_NODES: Final = 100_000
"""Values of a JSON text: objects, lists, strings, numbers, literals."""
