"""Copies of lists from other machines, and what is known of each.

    state_dir/sources/<list>/
        <sha256>.body    a copy: the octets as they came, whole and judged to be a list
        meta.json        which copy is in force, where it is from, and by what to ask whether it has changed
        state.json       how fetching goes: when it last worked, how often it failed since, why, and when it is tried next
        part, part.json  a transfer that was cut off, and by what to go on with it

A copy never changes. Putting one in force is one rename of meta.json, so a copy and what is said of it are never apart;
the copy before is kept until the next, as a build may be reading it. A damaged file here counts as none: what it said is
fetched again, and meanwhile the last good run serves.

Only one process at a time fetches a list (`locked`); everybody may read. Builds import this: it is quick to import.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resolver.snapshot import write_json

if TYPE_CHECKING:
    from resolver.config.model import ListConfig

FOLDER = "sources"  # below state_dir
_META, _STATE, _PART, _PART_META = "meta.json", "state.json", "part", "part.json"
_BODY = ".body"

_Record = TypeVar("_Record", "Meta", "State", "Part")


class NoCopyError(FileNotFoundError):
    """No copy of a list's source has come yet; the text says so, and why."""


class BusyError(Exception):
    """Another process is fetching the list."""


@dataclass(frozen=True, slots=True)
class Meta:
    """A copy. `source`: the list's `source` when it was fetched; `url`: from which of source and mirrors it came; `etag`,
    `last_modified`: what that server called this version (RFC 9110 section 8.8); `sha256`, `size`: of the octets as they
    came; `encoding`: "gzip" where the server packed them; `checksum`, `signing`: what they were held against.
    Times since the epoch."""

    source: str
    url: str
    file: str
    sha256: str
    size: int
    fetched: float
    etag: str = ""
    last_modified: str = ""
    encoding: str = ""
    checksum: str = ""
    signing: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """How fetching a list goes. `checked`: when the source last said what its list is, changed or not (0: never);
    `failures`: attempts since that came to nothing; `error`: why the last one did; times since the epoch."""

    source: str
    checked: float = 0.0
    tried: float = 0.0
    failures: int = 0
    error: str = ""
    next_try: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """The beginning of a body: from which URL, and which version of it."""

    url: str
    etag: str
    last_modified: str
    encoding: str


class Place:
    """What is kept of one list."""

    def __init__(self, state_dir: Path, name: str) -> None:
        self.folder = state_dir / FOLDER / name

    # -- reading ----------------------------------------------------------------------------------------------------
    def meta(self) -> Meta | None:
        """The copy in force; None if there is none, or if it is not there as it was put there."""
        found = _read(self.folder / _META, Meta)
        if found is None or "/" in found.file:
            return None
        try:
            whole = (self.folder / found.file).stat().st_size == found.size
        except OSError:
            return None
        return found if whole else None

    def state(self, source: str) -> State:
        """How fetching from `source` goes; as if never tried where another source was fetched before."""
        found = _read(self.folder / _STATE, State)
        return found if found is not None and found.source == source else State(source)

    def body(self, meta: Meta) -> Path:
        """The file of a copy."""
        return self.folder / meta.file

    # -- writing ----------------------------------------------------------------------------------------------------
    def write_state(self, state: State) -> None:
        """Keep how it goes."""
        write_json(self.folder / _STATE, dataclasses.asdict(state))

    def write_meta(self, meta: Meta) -> None:
        """Keep what is newly known of the copy in force."""
        write_json(self.folder / _META, dataclasses.asdict(meta))

    def adopt(self, file: Path, meta: Meta) -> None:
        """Make `file`, which lies in this folder, the copy in force, and delete all but the one before."""
        before = self.meta()
        with file.open("rb") as written:
            os.fsync(written.fileno())
        file.replace(self.folder / meta.file)
        self.write_meta(meta)  # syncs the folder
        kept = {meta.file, before.file if before else ""}
        for path in self.folder.glob(f"*{_BODY}"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    # -- a transfer under way -----------------------------------------------------------------------------------------
    @property
    def part_path(self) -> Path:
        """Where a body is written as it comes."""
        return self.folder / _PART

    def part(self) -> Part | None:
        """What the octets in `part_path` are the beginning of, if they are of use."""
        return _read(self.folder / _PART_META, Part) if self.part_path.is_file() else None

    def begin_part(self, part: Part) -> None:
        """Begin a body from nothing."""
        (self.folder / _PART_META).unlink(missing_ok=True)
        self.part_path.write_bytes(b"")
        write_json(self.folder / _PART_META, dataclasses.asdict(part))

    def drop_part(self) -> None:
        """Forget the transfer."""
        (self.folder / _PART_META).unlink(missing_ok=True)
        self.part_path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one to fetch this list. BusyError if somebody else is at it."""
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError("another process is fetching it") from None
            yield


def body_name(sha256: str) -> str:
    """The file name of a copy with this digest."""
    return f"{sha256}{_BODY}"


def copy_of(listed: ListConfig, state_dir: Path) -> Path:
    """The copy of a list from another machine; NoCopyError if there is none of its `source`."""
    place = Place(state_dir, listed.name)
    meta = place.meta()
    if meta is not None and meta.source == listed.source:
        return place.body(meta)
    error = place.state(listed.source).error
    raise NoCopyError(f"{listed.shown}: waiting for the first copy{f'; {error}' if error else ''}")


def has_copy(listed: ListConfig, state_dir: Path) -> bool:
    """Whether there is a copy of a list from another machine."""
    meta = Place(state_dir, listed.name).meta()
    return meta is not None and meta.source == listed.source


def forget_others(state_dir: Path, names: Iterable[str], older_than: float) -> None:
    """Delete copies of lists that the config does not have (any more) and that were last tried before `older_than`."""
    known = set(names)
    with contextlib.suppress(OSError):
        for folder in (state_dir / FOLDER).iterdir():
            state = _read(folder / _STATE, State)
            if folder.name not in known and folder.is_dir() and (state is None or state.tried < older_than):
                shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    """A record as it was written; None if it is missing or damaged."""
    try:
        body = json.loads(path.read_bytes())
        return kind(**{spec.name: _as(spec.type, body[spec.name]) for spec in dataclasses.fields(kind)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _as(kind: Any, value: Any) -> Any:
    """A value of the annotated kind; TypeError if it is another."""
    expected: tuple[type, ...] = {"str": (str,), "int": (int,), "float": (int, float)}[kind]
    if not isinstance(value, expected) or isinstance(value, bool):
        raise TypeError(f"expected {kind}")
    return value
