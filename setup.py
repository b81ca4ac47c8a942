"""Builds the native kernels with the package where a C++ compiler is there; pyproject.toml has all else.

The extension is optional: without a compiler, or on another machine than x86-64 Linux,
the install succeeds without it and says what serves instead.
"""

import logging
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # an isolated build does not have it

from relaygr.native.build import BuildFailed, build  # noqa: E402

SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "relaygr" / "native" / "src").iterdir())


class BuildNative(build_ext):
    """Hands the compiling to `relaygr.native.build`, which knows each file's options."""

    def build_extension(self, ext: Extension) -> None:
        """Build into where setuptools wants it; a failure is told and is none of the install's."""
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        try:
            build(Path(self.get_ext_fullpath(ext.name)).resolve())
        except BuildFailed as error:
            self.warn(f"the native kernels did not compile, torch and numpy serve instead:\n{error}")


setup(
    ext_modules=[
        Extension(
            "relaygr.native._kernels",
            sources=[name for name in SOURCES if name.endswith(".cpp")],
            depends=[name for name in SOURCES if name.endswith(".h")],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
)
