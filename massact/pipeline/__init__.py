"""The steps of an experiment as functions: values in, values out. Nothing here knows where results are kept."""
