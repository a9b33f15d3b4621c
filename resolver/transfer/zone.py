"""What is known of a zone that comes by transfer: its SOA, its primaries, and the copy on disk.

    state_dir/sources/<list>/zone.json    ZoneRecord: which run serves, by which SOA, and since when
    state_dir/sources/<list>/<n>.run      the zone as it was transferred, a run file (lists/runs.py)

A build links the run into its own folder, so this one may replace it at any time. The record is written last.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from resolver.snapshot import write_json

FOLDER = "sources"  # below state_dir, shared with fetch.store: a folder a list
SERIAL_BITS = 32
DEFAULT_RETRY = 60  # seconds, while no SOA is known
SHORTEST, LONGEST = 1, 86_400 * 28  # seconds that a SOA's timers are held within


class Order(Enum):
    """How a serial stands to another by RFC 1982."""

    SAME = "same"
    NEWER = "newer"
    OLDER = "older"


def compare(serial: int, known: int) -> Order:
    """Serial number arithmetic (RFC 1982 section 3.2). Where the RFC leaves it open (2**31 apart) it is no newer one."""
    if serial == known:
        return Order.SAME
    return Order.NEWER if (serial - known) % 2**SERIAL_BITS < 2 ** (SERIAL_BITS - 1) else Order.OLDER


@dataclass(frozen=True, slots=True)
class Soa:
    """A SOA's numbers (RFC 1035 section 3.3.13), in seconds but for the serial, and its record as text."""

    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int
    text: str = ""

    @property
    def retry_seconds(self) -> float:
        """RETRY within bounds."""
        return float(min(max(self.retry, SHORTEST), LONGEST))

    @property
    def refresh_seconds(self) -> float:
        """REFRESH within bounds."""
        return float(min(max(self.refresh, SHORTEST), LONGEST))

    @property
    def expire_seconds(self) -> float:
        """EXPIRE, which is never less than REFRESH and RETRY together (RFC 1912 section 2.2)."""
        return float(max(self.expire, self.refresh_seconds + self.retry_seconds))


@dataclass(frozen=True, slots=True)
class ZoneRecord:
    """The copy of a zone, and how it came. Times in seconds since the epoch.

    `run`: its file. `digest` names it among the builds' runs. `options`: how its records were read. `checked`: when a
    primary last said what its serial is. `kind`: axfr or ixfr. `first`: which primary is asked first the next time.
    """

    zone: str
    soa: Soa
    run: str
    digest: str
    options: str
    primary: str
    kind: str
    names: int
    octets: int
    seconds: float
    transferred: float
    checked: float
    expired: bool = False
    first: int = 0

    @property
    def expires(self) -> float:
        """When the copy is too old to be trusted (RFC 1035 section 3.3.13)."""
        return self.checked + self.soa.expire_seconds


class ZonePlace:
    """Where a list's zone is kept."""

    def __init__(self, state_dir: Path, name: str) -> None:
        self.folder = state_dir / FOLDER / name

    def read(self) -> ZoneRecord | None:
        """The record, if there is one and its run is there."""
        try:
            body = json.loads((self.folder / "zone.json").read_bytes())
            record = ZoneRecord(**{**body, "soa": Soa(**body["soa"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return record if self.path(record).is_file() else None

    def path(self, record: ZoneRecord) -> Path:
        """Where the run of a record is."""
        return self.folder / record.run

    def fresh(self) -> Path:
        """Where the next run is written."""
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        numbers = [int(path.stem) for path in self.folder.glob("*.run") if path.stem.isdecimal()]
        return self.folder / f"{max(numbers, default=0) + 1}.run"

    def write(self, record: ZoneRecord) -> None:
        """Put a record in force, and remove every run that it does not name."""
        write_json(self.folder / "zone.json", dataclasses.asdict(record))
        for path in self.folder.glob("*.run*"):
            if path.name != record.run:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(".*.run.*"):  # of a transfer that was killed
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """The copy is damaged: the next transfer brings all of it."""
        (self.folder / "zone.json").unlink(missing_ok=True)
