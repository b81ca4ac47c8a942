"""How near the ranking engine comes to what the machine can do.

`python -m bench.engine` measures and prints one JSON line; `python -m bench.engine.report`
makes tables and pictures of it. The parent process decides and prints; every case runs
in a process of its own (worker.py), so that its memory is its own.

    shapes, counting     what is measured; operations it needs, from the sizes alone
    subject, dense       the engine's four jobs; the plain torch it is compared with
    peaks, timing        rates of the machine; rounds that interleave them with the jobs
    steady, score_error  what a request leaves behind; what a lower precision costs
    expect, targets      arithmetic written before the run; limits a figure is held to
    report, plots        what a reader gets
"""
