"""What joins a caller's dialect to a module's: pairs of framings, and what of heads, statuses and messages each maps to (floor 2)."""
