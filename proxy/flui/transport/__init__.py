"""Floor 3: the only sockets."""
