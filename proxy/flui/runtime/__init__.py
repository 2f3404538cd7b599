"""Floor 4: wiring, admin, configuration files, topologies, the command line."""
