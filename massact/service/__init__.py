"""Running the service: its server, its users, its backups."""
