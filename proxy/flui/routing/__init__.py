"""Floor 1: which cluster, which endpoint."""
