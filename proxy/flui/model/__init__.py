"""Floor 0: values without behaviour. Events, fields, faults, identities, decisions, topology, configuration."""
