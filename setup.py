"""Builds the Cython extension; everything else stands in pyproject.toml.

TAMPAH_DEBUG=1 builds with AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("TAMPAH_DEBUG") == "1"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
engine = Extension(
    "resolver.engine.engine",
    ["resolver/engine/engine.pyx"],
    define_macros=[("_GNU_SOURCE", "1")],
    extra_compile_args=["-O1", "-g", "-fno-omit-frame-pointer", *SANITIZE] if debug else ["-O2", "-g1"],
    extra_link_args=SANITIZE if debug else [],
)
setup(ext_modules=cythonize([engine], compiler_directives={"language_level": 3}))
