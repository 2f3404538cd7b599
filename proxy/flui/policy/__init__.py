"""Floor 1: Casbin policy, compiled into an index."""
