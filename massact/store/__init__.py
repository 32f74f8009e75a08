"""The run store: its names and values, its readers, its writers and the spool."""
