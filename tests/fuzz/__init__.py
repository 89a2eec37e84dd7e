"""A seeded fuzzer of all commands: `make fuzz SEED=0 CASES=1000`, or `python -m tests.fuzz.run --help`.

base.py makes good inputs once, targets.py says which of them are damaged and which command then reads them, mutators.py
damages them, and run.py runs every case in a process of its own and judges what the command did.
"""
