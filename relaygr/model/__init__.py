"""The generative recommendation model and the interface behind which a team puts its own.

interface.py says what a ranker needs of a model, hstu.py is ours, run.py composes
`extend` into pre-infer, append, rank and full inference, conformance/ holds the exactness
suite that any model behind the interface passes, oracle.py our model's definition in float64.
"""
