"""The plan's phases: check what is needed, do what the store lacks, and answer with tables."""
