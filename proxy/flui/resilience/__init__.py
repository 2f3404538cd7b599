"""Floor 1: what keeps a fault where it happens. Pure algorithms; time and chance are arguments."""
