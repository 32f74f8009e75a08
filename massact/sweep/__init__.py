"""Sweeps: which cells are wanted, which the store lacks, and how those are generated, judged and kept."""
