"""A ranker that waits for reloads, however quick its small model computes: so that what lies in DRAM is read.

python -m tests.system.tier_history.patient_ranker, with a ranker's settings.
"""

from services.ranker.__main__ import main
from services.ranker.core.residency import Residency

PATIENCE_NS = 60_000_000_000

if __name__ == "__main__":
    Residency.__init__.__kwdefaults__["reload_worth_ns"] = PATIENCE_NS
    main()
