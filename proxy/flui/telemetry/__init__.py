"""Floor 3: records, meters, logs."""
