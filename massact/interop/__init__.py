"""Results as files: reading and writing those of trait-interp (`results.jsonl` and what lies beside it).

`massact import` and `massact export` are the commands. A line becomes frozen values in `lines`, a row and a run of the
store in `rows`, which writes lines of our own too; `importer` and `exporter` are the jobs.
"""
