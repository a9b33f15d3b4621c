"""Reading lists: one module a dialect, `detect` to tell them apart, `read` to drive them.

`read_list` and `read_files` are the way in; `Options` says how, `ListReport` what came of it.
"""

from resolver.lists.parse.base import Dialect, FileLines, ListReport, Options, Refused, own_names
from resolver.lists.parse.detect import detect
from resolver.lists.parse.read import DIALECTS, read_files, read_list

__all__ = [
    "DIALECTS",
    "Dialect",
    "FileLines",
    "ListReport",
    "Options",
    "Refused",
    "detect",
    "own_names",
    "read_files",
    "read_list",
]
