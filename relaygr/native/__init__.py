"""Kernels in C++ for x86-64, behind one shared object that nobody is required to have.

`load` finds the shared object that was built beside this file, or says in one log line why
there is none; every caller then has another way to the same answer, which is also what the
kernels are tested against. Nothing happens at import. Standard library only: the sources
include neither Python's headers nor torch's, so one build serves every version of both.

    library.py   finds, checks and loads the shared object
    build.py     compiles src/ with whatever C++ compiler is there; `python -m relaygr.native.build`
    src/         one file per kernel and instruction set, named by its suffix
"""

from relaygr.native.library import LEVELS, NativeLibrary, load

__all__ = ["LEVELS", "NativeLibrary", "load"]
