"""Where the configuration file is if none is named. Quick to import, for commands that only look for the server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from resolver.config.problem import ConfigError, Problem

PLACES = (Path("config.yaml"), Path("/etc/tampah/config.yaml"))


def search(places: Iterable[Path] = PLACES) -> Path:
    """The configuration file to use where none is named. `ConfigError` if it is in none of the places."""
    places = list(places)
    for place in places:
        try:
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass  # it may be there: reading it says what is in the way
        return place
    message = f"no configuration: neither {' nor '.join(map(str, places))} exists; name one with -c FILE"
    raise ConfigError([Problem("", 0, "", message)])
