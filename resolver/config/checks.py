"""What one part of the file says about another: names that are defined once, and references that lead somewhere.

All of it works on the file's plain data, not on the model, so that it is found beside errors of single values and not
after them. Values of a wrong type are passed over: the model reports those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resolver.config import addresses, local_names, machine, units
from resolver.config.problem import Fault, Location
from resolver.config.types import nearest


def check(data: dict[str, Any]) -> Iterator[Fault]:
    """The faults between the parts of a configuration."""
    lists, groups = _mappings(data.get("lists")), _mappings(data.get("groups"))
    yield from _unique("lists", lists)
    yield from _unique("groups", groups)
    defined = data.get("categories")
    categories = {each for _, listed in lists for each in [listed.get("category", "general")] if isinstance(each, str)}
    categories.update(defined if isinstance(defined, dict) else (), ("encrypted-dns", "safe-search"))
    names = {name for _, listed in lists if isinstance(name := listed.get("name"), str)}
    for index, group in groups:
        at: Location = ("groups", index)
        yield from _known((*at, "categories"), group.get("categories"), categories, "category")
        yield from _known((*at, "lists"), group.get("lists"), names, "list")
        overrides = group.get("overrides")
        for name in overrides if isinstance(overrides, dict) else ():
            if name not in names:
                yield Fault(
                    (*at, "overrides", name), "expected the name of a list that is in use", nearest(name, names)
                )
        actions = group.get("actions")
        for category in actions if isinstance(actions, dict) else ():
            if category not in categories:
                message = "expected the name of a category that is in use"
                yield Fault((*at, "actions", category), message, nearest(category, categories))
    keys = {
        name.lower().rstrip(".")
        for _, key in _mappings(data.get("tsig_keys"))
        if isinstance(name := key.get("name"), str)
    }
    for index, listed in lists:
        word = listed.get("tsig")
        if isinstance(word, str) and word and word.lower().rstrip(".") not in keys:
            message = "expected the name of one of tsig_keys"
            yield Fault(("lists", index, "tsig"), message, nearest(word, keys), show=True)
    yield from _unique("tsig_keys", _mappings(data.get("tsig_keys")))
    yield from local_names.check(data)
    yield from _certificate(data.get("listen"))
    yield from _own_servers(data)
    yield from _known_places(data)
    yield from _memory(data)


def _mappings(value: object) -> list[tuple[int, dict[str, Any]]]:
    items = value if isinstance(value, list) else []
    return [(index, item) for index, item in enumerate(items) if isinstance(item, dict)]


def _unique(section: str, items: list[tuple[int, dict[str, Any]]]) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for index, item in items:
        name = item.get("name")
        if isinstance(name, str) and first.setdefault(name, index) != index:
            message = f"expected a name of its own, but {section}[{first[name]}] has it already"
            yield Fault((section, index, "name"), message, show=True)


def _known(at: Location, words: object, known: set[str], what: str) -> Iterator[Fault]:
    for index, word in enumerate(words if isinstance(words, list) else ()):
        if isinstance(word, str) and word not in known:
            message = f"expected the name of a {what} that is in use"
            if word == "all":
                message += f" (every {what} is: all, without brackets)"
            yield Fault((*at, index), message, nearest(word, known), show=True)


def _certificate(listen: object) -> Iterator[Fault]:
    """Encrypted listeners have to prove who they are."""
    if not isinstance(listen, dict):
        return
    certificate = listen.get("certificate")
    given = certificate if isinstance(certificate, dict) else {}
    encrypted = [key for key in ("tls", "https", "quic") if listen.get(key)]
    missing = [name for name in ("chain", "key") if given.get(name) in (None, "")]
    if missing and encrypted:
        where = f"listen.{encrypted[0]} shows a certificate: expected the PEM files of chain and key"
        yield Fault(("listen", "certificate", missing[0]) if given else ("listen", encrypted[0]), where)
    elif len(missing) == 1 and given:
        yield Fault(("listen", "certificate"), f"expected {missing[0]} as well: the two belong together")


def _own_servers(data: dict[str, Any]) -> Iterator[Fault]:
    """An upstream server that is this server's own address would send every query round in a circle."""
    listen = data.get("listen")
    own = set()
    texts = listen.get("dns") if isinstance(listen, dict) else None
    for text in texts if isinstance(texts, list) else ["127.0.0.1:5335", "[::1]:5335"]:
        try:
            endpoint = addresses.parse_endpoint(text)
        except ValueError:
            continue
        own.add((endpoint.address, endpoint.port))
    for at, server in _servers(data):
        if not server.is_encrypted and (server.address, server.port) in own:
            yield Fault(at, "expected another server than this one, which listens there itself", show=True)


def _servers(data: dict[str, Any]) -> Iterator[tuple[Location, addresses.Server]]:
    """Every upstream server that can be read, and where it stands."""
    upstream = data.get("upstream")
    places: list[tuple[Location, object]] = [
        (("groups", index, "upstream"), group.get("upstream")) for index, group in _mappings(data.get("groups"))
    ]
    if isinstance(upstream, dict):
        places += [(("upstream", key), upstream.get(key)) for key in ("servers", "bootstrap")]
        for index, route in _mappings(upstream.get("routes")):
            places.append((("upstream", "routes", index, "servers"), route.get("servers")))
    for at, servers in places:
        for index, text in enumerate(servers if isinstance(servers, list) else ()):
            try:
                yield (*at, index), addresses.parse_server(text)
            except ValueError:
                continue


def _known_places(data: dict[str, Any]) -> Iterator[Fault]:
    """A server that is written by name is asked at an address, and this server cannot be asked for it."""
    upstream = data.get("upstream")
    if isinstance(upstream, dict) and upstream.get("bootstrap"):
        return
    for at, server in _servers(data):
        if server.address is None:
            message = "expected to know where the server is: add ?ip=ADDRESS, or plain servers to upstream.bootstrap"
            yield Fault(at, message, show=True)


def _memory(data: dict[str, Any]) -> Iterator[Fault]:
    """A cache that the machine cannot hold would end in the kernel killing workers, once it fills."""
    cache = data.get("cache")
    try:
        size = units.parse_size(cache.get("size", 0)) if isinstance(cache, dict) else 0
    except ValueError:
        return
    if size > (most := machine.memory()):
        message = f"expected less than the memory of this machine, which is {most / 2**20:,.0f}MiB"
        yield Fault(("cache", "size"), message, show=True)
