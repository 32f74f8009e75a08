"""The plan's phases: they bring experiment file, models, judge, tracking and queries together.

A phase checks what it needs before it starts, does what the store does not hold yet, and ends with
the tables that answer its question.
"""
