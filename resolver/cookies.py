"""The key of which the secrets of DNS cookies are made (RFC 7873 section 4.2): a file that outlives restarts.

All workers have it, so each knows the cookies that another made; the engine makes a new secret of it each day
(engine/edns.pyx). Who wants all cookies to be void deletes the file and restarts. Servers that answer on one address may
share it.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

FILE = "cookie.key"
SIZE = 16  # octets

_log = logging.getLogger(__name__)


def key(state_dir: Path) -> bytes:
    """The key below `state_dir`, made if there is none. One that cannot be kept is used all the same, until the end."""
    path = state_dir / FILE
    try:
        known = path.read_bytes()
        if len(known) == SIZE:
            return known
        _log.warning("%s: expected %d octets, found %d; clients get new cookies", path, SIZE, len(known))
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("%s: %s; clients get new cookies at each start", path, error.strerror or error)
    made = secrets.token_bytes(SIZE)
    beside = path.with_name(f"{FILE}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        beside.touch(0o600)
        with beside.open("wb") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        _log.warning("%s: %s; clients get new cookies at each start", path, error.strerror or error)
        beside.unlink(missing_ok=True)
    return made
