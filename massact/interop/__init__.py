"""Results as files: reading and writing those of trait-interp (`results.jsonl` and what lies beside it).

`massact import` and `massact export` are the commands. A line becomes frozen values in `lines`, a row
of the run store in `rows`; `importer` and `exporter` are the jobs, each in constant memory.
"""
