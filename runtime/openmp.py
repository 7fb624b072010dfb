"""How OpenMP's threads wait for each other.

GNU's OpenMP reads this from the environment once, when it is loaded; so does each further copy, such as sentencepiece's. bq's
processes say it first of all. In a program that has loaded OpenMP itself before bq.runtime, what was read then holds.
"""

import os

# How often a thread that waits for the others looks again before it sleeps. Left alone it looks for milliseconds, and on a
# core that something else has taken that holds all others up: a token can take seconds then (bench/threads.py). 1,000 looks are
# some 30 microseconds.
_SPINS = ("GOMP_SPINCOUNT", "1000")


def limit_spins() -> None:
    """Let OpenMP's threads sleep soon, unless the user's environment says how they wait. To be called before what brings OpenMP is
    loaded."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ[_SPINS[0]] = _SPINS[1]
