"""How much load a cluster holds within its service-level objective, and how long a history.

estimate, search     where a late fraction crosses its limit; which probe tells most
schema, pool         what run.json holds; its probes by mode, length and rate
summary, verdicts    a run in one line; its claims, held to limits written before it
tables, plots        the parts of a page
report               the page: `python -m bench.load.report RUN_DIR`
"""
