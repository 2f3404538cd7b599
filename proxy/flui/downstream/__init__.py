"""Floor 3: who calls us. Listeners, their connections, and the exchanges on them."""
