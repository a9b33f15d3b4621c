"""The configuration as the last start or reload checked it, so that the next start need not: reading and checking the file
takes longer than all else that a start waits for.

It is a file in state_dir, good for one key: the config file's octets, the code that checked them and what of the machine
they were understood by. Any difference, and the file is read as ever. What it holds is plain values, not objects: a part
of the configuration that has no plain form here, or a method, is taken from the whole, which is kept beside them and
made when it is first asked for. So everything that works with a Config works with a kept one, if not as quickly.

Only a file of the server's own user that nobody else can write is believed. Root that becomes `user` gives away what is
in state_dir, so its starts read the config file each time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from resolver import __version__
from resolver.config import machine
from resolver.config.addresses import Endpoint, Server
from resolver.config.problem import Problem
from resolver.snapshot import write_json

if TYPE_CHECKING:
    from pydantic import BaseModel

    from resolver.config.model import Config

FILE = "config.kept"  # below state_dir
_STATE_DIR = re.compile(r"^state_dir:[ \t]*(['\"]?)([^'\"#\n]+?)\1[ \t]*(?:#.*)?$", re.MULTILINE)


class Section:
    """A part of a kept configuration. `real` gives the same part of the whole one."""

    __slots__ = ("_real", "_values")

    def __init__(self, values: dict[str, Any], real: Callable[[], Any]) -> None:
        self._values = values
        self._real = real

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._values:
            return getattr(self._real(), name)
        return _read(self._values[name], lambda: getattr(self._real(), name))


class Kept(Section):
    """A whole kept configuration; `real` is the Config that it was made from, `digest` standing.config_digest of it."""

    __slots__ = ("_text", "_whole", "digest")

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body["values"], lambda: self.real)
        self.digest = str(body["digest"])
        self._text = str(body["text"])
        self._whole: Config | None = None

    @property
    def real(self) -> Config:
        """The configuration as such."""
        if self._whole is None:
            from resolver.config.model import Config

            self._whole = Config.from_json(self._text)
        return self._whole


def real(config: Config) -> Config:
    """The configuration as such, which compares and copies as one."""
    return config.real if isinstance(config, Kept) else config


def load(path: Path) -> tuple[Config, str]:
    """The configuration in a file, kept or read, and its key; "" where it changed while it was read.

    Raises ConfigError as config.load does.
    """
    key = _key(path)
    if key and (found := _find(path, key)):
        return cast("Config", found), key
    from resolver.config import load as reading

    config = reading.load(path)
    return config, key if _key(path) == key else ""


def keep(config: Config, key: str, digest: str, state_dir: Path) -> None:
    """Keep what load() gave, and the digest that generations are known by, for the next start."""
    if not key or isinstance(config, Kept):
        return
    body = {"key": key, "digest": digest, "text": config.to_json(), "values": _plain(config)["section"]}
    with contextlib.suppress(OSError):  # the next start takes longer
        write_json(state_dir / FILE, body)


def _key(path: Path) -> str:
    """What a kept configuration is good for; "" if the file cannot be read."""
    digest = hashlib.sha256()
    code = sorted(Path(__file__).parent.glob("*.py"))
    try:
        text = path.read_bytes()
        stats = [(file.name, stat.st_size, stat.st_mtime_ns) for file in code if (stat := file.stat())]
    except (OSError, ValueError):
        return ""
    here = (os.path.expanduser("~"), sorted(os.sched_getaffinity(0)), machine.memory())  # noqa: PTH111
    digest.update(repr((__version__, stats, str(path.absolute()), here)).encode())
    digest.update(text)
    return digest.hexdigest()


def _find(path: Path, key: str) -> Kept | None:
    """What is kept of a file, if it is good for the key. Where state_dir is, is guessed first and checked after."""
    try:
        said = _STATE_DIR.search(path.read_text())
        folder = path.absolute().parent / (said[2] if said else "state")
        with (folder / FILE).open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_uid != os.geteuid() or stat.st_mode & 0o022:
                return None
            body = json.loads(file.read())
        found = Kept(body) if body["key"] == key else None
        return found if found and found.state_path == folder else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


# -- values -----------------------------------------------------------------------------------------------------------
# Text, numbers, yes and no stand for themselves; everything else is an object with one member that says what it is.
class _NoPlainFormError(Exception):
    """A value that is only in the whole configuration."""


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str() if type(value) in (type(None), bool, int, float, str):
            return value
        case tuple() | list():
            return {"list": [_plain(item) for item in value]}
        case Path():
            return {"path": str(value)}
        case Endpoint():
            return {"endpoint": [value.host, value.port]}
        case Server():
            return {"server": {**dataclasses.asdict(value), "ip": str(value.ip) if value.ip else None}}
        case Problem():
            return {"problem": dataclasses.asdict(value)}
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from pydantic import BaseModel

    if isinstance(value, IPv4Address | IPv6Address):
        return {"address": str(value)}
    if isinstance(value, IPv4Network | IPv6Network):
        return {"network": str(value)}
    if isinstance(value, BaseModel):
        return {"section": _members(value)}
    raise _NoPlainFormError


def _members(section: BaseModel) -> dict[str, Any]:
    """The fields of a section and what its own properties say, as far as they have a plain form."""
    names = [*type(section).model_fields]
    for base in type(section).__mro__:
        if base.__module__.startswith("resolver."):
            names += [name for name, value in vars(base).items() if isinstance(value, property)]
    plain = {}
    for name in names:
        with contextlib.suppress(_NoPlainFormError, ValueError):
            plain[name] = _plain(getattr(section, name))
    return plain


def _read(plain: Any, real: Callable[[], Any]) -> Any:
    """The value of a plain form. ValueError, TypeError or KeyError if it is none."""
    if not isinstance(plain, dict):
        return plain
    ((kind, value),) = plain.items()
    match kind:
        case "list":
            return tuple(_read(item, lambda at=at: real()[at]) for at, item in enumerate(value))  # type: ignore[misc]
        case "section":
            return Section(value, real)
        case "path":
            return Path(value)
        case "endpoint":
            return Endpoint(*value)
        case "server":
            return Server(**{**value, "ip": ip_address(value["ip"]) if value["ip"] else None})
        case "problem":
            return Problem(**value)
        case "address":
            return ip_address(value)
        case "network":
            return ip_network(value)
    raise ValueError(f"{kind!r} is not kept")
