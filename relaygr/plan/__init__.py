"""How many instances a load needs, and what gives way first. Formulas only; the simulator confirms (sim/planned.py)."""
