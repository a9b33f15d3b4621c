# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The root of the native part; the include list is its table of contents."""

include "hash.pyx"
include "index.pyx"
include "suffix.pyx"
include "sort.pyx"
include "build.pyx"
include "read.pyx"
include "merge.pyx"
