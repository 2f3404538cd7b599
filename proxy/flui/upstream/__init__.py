"""Floor 3: pools, dialling, attempts."""
