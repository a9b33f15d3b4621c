"""The configuration's model: every key, what it means, its default, and what it may hold.

Invariants: models are immutable; unknown keys are refused; a value is parsed once, here, and typed from then on; text
that names a place in the file system is resolved against the folder of the configuration file by the properties here
and nowhere else. Schemas are built when the first file is read, not on import. `load.py` is the way in; what refers
from one part of the file to another is checked by `checks.py`.
"""

import base64
import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from pydantic_core import from_json, to_json

from resolver import counters
from resolver import schedule as calendar
from resolver.config import addresses, types
from resolver.config.problem import Problem
from resolver.config.records import DEFAULT_TTL as DEFAULT_RECORD_TTL
from resolver.config.signing import parse_public_key
from resolver.config.types import Once
from resolver.vocabulary import EDE, Action

GLOB_CHARACTERS = frozenset("*?[")
DEFAULT_TTL = 10  # seconds
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
ROUTES = 256  # of the engine (forward.pyx), the default one included
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}", re.IGNORECASE)
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")


def _endpoints(*texts: str) -> tuple[addresses.Endpoint, ...]:
    return tuple(addresses.parse_endpoint(text) for text in texts)


def _networks(*texts: str) -> tuple[addresses.Network, ...]:
    return tuple(ip_network(text) for text in texts)


def _expand(base: Path, text: str) -> Path:
    """`text` as an absolute path: `~` is the home of who runs this, anything relative starts at `base`."""
    path = Path(text)
    if text.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:  # no such user: the file named ~… beside the configuration
            pass
    return base / path


class _Section(BaseModel):
    """What all sections share."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_all_defaults(cls, data: object) -> object:
        """A section all of whose keys are commented out has nothing in it: null, for YAML."""
        return {} if data is None else data


def _way(source: str) -> Literal["file", "http", "axfr"]:
    """How a source is reached, encrypted or not."""
    if source.startswith(("http://", "https://")):
        return "http"
    return "axfr" if source.startswith("axfr://") else "file"


class Certificate(_Section):
    """The certificate of the encrypted listeners, both in PEM form."""

    chain: types.Text = Field(default="", description="File with the certificate and those that vouch for it.")
    key: types.Text = Field(default="", description="File with the certificate's private key.")


class Listen(_Section):
    """Where queries are taken."""

    dns: Annotated[tuple[types.Endpoint, ...], Once] = Field(
        default=_endpoints("127.0.0.1:5335", "[::1]:5335"), description="Plain DNS: UDP and TCP on each address."
    )
    tls: Annotated[tuple[types.Endpoint, ...], Once] = Field(
        default=(), description="DNS over TLS (RFC 7858) on each address."
    )
    https: Annotated[tuple[types.Endpoint, ...], Once] = Field(
        default=(), description="DNS over HTTP/1.1, HTTP/2 and HTTP/3 (RFC 8484) on each address."
    )
    quic: Annotated[tuple[types.Endpoint, ...], Once] = Field(
        default=(), description="DNS over QUIC (RFC 9250) on each address."
    )
    certificate: Certificate = Field(default_factory=Certificate, description="The certificate of tls, https and quic.")
    https_path: types.Text = Field(default="/dns-query", description="Where https takes queries.")
    proxy_from: Annotated[tuple[types.Network, ...], Once] = Field(
        default=(),
        max_length=64,
        description="Load balancers that put a PROXY header (version 2) before what they pass on, over UDP and TCP: the "
        "client is who it says. Without one nothing is taken from them.",
    )
    transparent: types.YesNo = Field(
        default=False,
        description="Takes queries that a router redirects here by TPROXY, and answers from the address that was asked.",
    )
    name: types.OptionalName = Field(
        default="",
        description="The name by which clients find tls, https and quic (RFC 9462); empty: the first of the certificate.",
    )

    @field_validator("https_path")
    @classmethod
    def _https_path_is_one(cls, path: str) -> str:
        if not re.fullmatch(r"/[A-Za-z0-9._~/-]*", path):
            raise ValueError("expected a path of letters, digits and ._~/- that begins with /")
        return path

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not (self.dns or self.tls or self.https or self.quic):
            raise ValueError("expected at least one address to listen on")
        return self


class Route(_Section):
    """Names that other servers are asked about."""

    zones: Annotated[tuple[types.Name, ...], Once] = Field(
        min_length=1, description="Domain names; each covers itself and what is below it. The longest match wins."
    )
    servers: Annotated[tuple[types.Server, ...], Once] = Field(
        min_length=1, description="The servers to ask about these names, and no others."
    )


class Upstream(_Section):
    """Who is asked for what is not blocked."""

    servers: Annotated[tuple[types.Server, ...], Once] = Field(
        default=(addresses.parse_server("9.9.9.9"), addresses.parse_server("1.1.1.1")),
        min_length=1,
        description="DNS servers: an address (UDP, and TCP where an answer is cut), address:port, or udp://, tcp://, "
        "tls://, https:// or quic:// with ?ip= (where to connect) and ?name= (the certificate's name).",
    )
    strategy: Literal["fastest", "ordered", "parallel", "random"] = Field(
        default="fastest",
        description="Which server is asked first: the fastest so far, the first that works, all at once, or any.",
    )
    timeout: types.Seconds = Field(
        default=2.0, description="How long one server is waited for before the next is asked."
    )
    routes: tuple[Route, ...] = Field(default=(), description="Zones that servers of their own are asked about.")
    bootstrap: Annotated[tuple[types.Server, ...], Once] = Field(
        default=(),
        description="Plain servers that are asked where the servers are that are written by name, as tls://dns.example.",
    )
    ca: types.Text = Field(
        default="", description="File with certificates, in PEM form, of authorities to trust besides the system's."
    )

    @field_validator("bootstrap")
    @classmethod
    def _bootstrap_needs_no_look_up(cls, servers: tuple[addresses.Server, ...]) -> tuple[addresses.Server, ...]:
        for server in servers:
            if server.is_encrypted:
                raise ValueError(f"expected plain servers with an address, such as 9.9.9.9, not {server}")
        return servers

    @field_validator("timeout")
    @classmethod
    def _timeout_is_usable(cls, timeout: float) -> float:
        if not 0.01 <= timeout <= 60:
            raise ValueError("expected a time-out from 10ms to 1m")
        return timeout

    @field_validator("routes")
    @classmethod
    def _zones_have_one_route(cls, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        types.without_repeats(tuple(zone for route in routes for zone in route.zones))
        return routes


class Cache(_Section):
    """What upstream answered is kept."""

    size: types.Size = Field(default=64 * 2**20, description="Memory for answers, all workers together.")
    max_ttl: types.Ttl = Field(default=86_400, description="An answer is kept no longer than this.")
    min_ttl: types.Ttl = Field(default=0, description="An answer is kept at least this long, whatever its TTL says.")
    negative_ttl: types.Ttl = Field(default=3600, description="That a name does not exist is kept no longer than this.")
    serve_stale: types.Ttl = Field(
        default=86_400,
        description="How long an expired answer may serve while no upstream answers (RFC 8767); 0s: never.",
    )
    prefetch: types.YesNo = Field(default=True, description="Ask again for popular names shortly before they expire.")

    @field_validator("size")
    @classmethod
    def _size_is_usable(cls, size: int) -> int:
        if size < 2**20:
            raise ValueError("expected at least 1MiB")
        return size

    @field_validator("min_ttl")
    @classmethod
    def _limits_are_in_order(cls, min_ttl: int, info: ValidationInfo) -> int:
        if min_ttl > info.data.get("max_ttl", min_ttl):
            raise ValueError("expected no more than cache.max_ttl")
        return min_ttl


class ListConfig(_Section):
    """One list: where it comes from, how it is read, and what it does."""

    name: types.Word = Field(description="A word that names the list in reports, metrics and groups; unique.")
    source: types.Text = Field(
        min_length=1,
        description="Where the list is: a path, a path with *, ? or [], http://, https:// or axfr://primary/zone.",
    )
    mirrors: tuple[types.Text, ...] = Field(default=(), description="Other places of the same list, tried in order.")
    format: Literal["auto", "hosts", "domains", "adblock", "dnsmasq", "unbound", "rpz", "addresses"] = Field(
        default="auto", description="How lines are read; auto decides from the list's beginning. Wildcards are domains."
    )
    kind: Literal["block", "allow"] = Field(default="block", description="Whether the names are blocked or allowed.")
    category: types.Word = Field(
        default="general",
        description="Which of `categories` says how names are answered; one not there has its defaults.",
    )
    subdomains: types.Subdomains = Field(
        default="auto", description="Whether a plain name covers what is below it; auto: as the format has it."
    )
    rewrite: types.YesNo = Field(
        default=False,
        description="Whether a hosts line with the address of another machine gives that address instead of a block.",
    )
    refresh: types.Ttl = Field(default=86_400, description="How often the source is looked at for changes.")
    checksum: types.Text = Field(
        default="",
        description="The SHA-256 that a body from http:// or https:// must have: sha256:HEX, or the http(s):// address of "
        "a file that says it, as sha256sum writes it. Empty: not checked.",
    )
    signature: types.Text = Field(
        default="",
        description="Where the minisign signature of a body from http:// or https:// is: an http(s):// address, or auto: "
        "the source's with .minisig behind it. Empty: not checked.",
    )
    public_key: types.Text = Field(
        default="",
        validate_default=True,
        description="Who must have signed it: the line of minisign's .pub file that begins with RW.",
    )
    max_size: types.Size | None = Field(
        default=None, description="A body from another machine is no longer than this; unset: fetch.max_size."
    )
    enabled: types.Enabled = Field(default="yes", description="no: not read. shadow: only counts what it would do.")
    mandatory: types.YesNo = Field(
        default=False, description="An order from outside: limits on its size and changes only report, never hold it."
    )
    max_shrink: types.Share | None = Field(default=None, description="Instead of guard.shrink, for this list.")
    max_grow: types.Share | None = Field(default=None, description="Instead of guard.grow, for this list.")
    override: types.OverrideRule = Field(
        default=types.Override(), description="What the list does instead of what its rules say; given: what they say."
    )
    max_ttl: types.Ttl | None = Field(default=None, description="The most that answers made by its rules may live.")
    add_soa: types.YesNo = Field(
        default=True, description="RPZ: the zone's SOA goes with answers made by its rules, in ADDITIONAL."
    )
    ns_triggers: types.YesNo = Field(
        default=False,
        description="RPZ: for its rules about name servers these are looked up upstream, which costs time where they are "
        "not known; else, and then for all lists of the same clients, they count as far as an answer carries them.",
    )
    recursive_only: types.YesNo = Field(
        default=True, description="RPZ: the list speaks only about queries that want recursion (RD=1)."
    )
    break_dnssec: types.YesNo = Field(
        default=True, description="no: leaves an answer alone that is signed and asked for with DO=1."
    )
    tsig: types.Text = Field(
        default="", description="Which of `tsig_keys` signs transfers of an axfr:// source; empty: none."
    )
    allow_notify: Annotated[tuple[types.Network, ...], Once] = Field(
        default=(), description="Who may say that an axfr:// source has changed (NOTIFY), besides its primaries."
    )
    on_expire: Literal["keep", "drop"] = Field(
        default="keep",
        description="What happens when no primary has answered for as long as the zone's EXPIRE says; an alarm either way.",
    )
    on_cold_start: Literal["serve", "servfail"] = Field(
        default="serve",
        description="What clients of an axfr:// list get while no copy of it was ever there: answers without it, or "
        "SERVFAIL.",
    )
    _base: Path = PrivateAttr(default_factory=Path.cwd)

    @field_validator("source")
    @classmethod
    def _source_is_whole(cls, source: str) -> str:
        scheme, separator, rest = source.partition("://")
        if not separator:
            return source
        host, _, path = rest.partition("/")
        if scheme not in ("http", "https", "axfr"):
            raise ValueError("expected a path, http://, https:// or axfr://primary/zone")
        if not host or (scheme == "axfr" and not path):
            raise ValueError("expected axfr://primary/zone" if scheme == "axfr" else f"expected {scheme}://host/path")
        if scheme == "axfr":
            addresses.parse_primary(source)
        else:
            addresses.check_url(source)
        return source

    @field_validator("mirrors")
    @classmethod
    def _mirrors_are_alike(cls, mirrors: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        way = _way(info.data.get("source", ""))
        for mirror in mirrors:
            if way == "file":
                raise ValueError("expected no mirrors: the source is a file, which is read where it is")
            cls._source_is_whole(mirror)
            if _way(mirror) != way:
                raise ValueError(
                    f"expected mirrors that are reached like the source, not {addresses.shown_url(mirror)}"
                )
        zones = {addresses.parse_primary(each)[1] for each in (info.data["source"], *mirrors) if way == "axfr"}
        if len(zones) > 1:
            raise ValueError("expected other primaries of the same zone")
        return types.without_repeats(mirrors)

    @field_validator("checksum")
    @classmethod
    def _checksum_is_one(cls, checksum: str, info: ValidationInfo) -> str:
        if not checksum:
            return checksum
        if _way(info.data.get("source", "")) != "http":
            raise ValueError("expected no checksum: only bodies from http:// and https:// are held against one")
        if _SHA256.fullmatch(checksum):
            return checksum.lower()
        if _way(checksum) != "http":
            raise ValueError("expected sha256: and 64 hexadecimal digits, or the http:// or https:// address of a file")
        return cls._source_is_whole(checksum)

    @field_validator("signature")
    @classmethod
    def _signature_is_one(cls, signature: str, info: ValidationInfo) -> str:
        if not signature:
            return signature
        if _way(info.data.get("source", "")) != "http":
            raise ValueError("expected no signature: only bodies from http:// and https:// are held against one")
        if signature != "auto" and _way(signature) != "http":
            raise ValueError("expected auto, or the http:// or https:// address of a signature")
        return signature if signature == "auto" else cls._source_is_whole(signature)

    @field_validator("public_key")
    @classmethod
    def _public_key_is_one(cls, public_key: str, info: ValidationInfo) -> str:
        if "signature" not in info.data or (not public_key and not info.data["signature"]):
            return public_key
        if not info.data.get("signature"):
            raise ValueError("expected no public_key without a signature: nothing is held against it")
        parse_public_key(public_key)
        return public_key

    @property
    def signing(self) -> str:
        """What a body's signature is held against, and where it is; empty where it needs none."""
        return f"{self.public_key} {self.signature}" if self.signature else ""

    @property
    def primaries(self) -> tuple[addresses.Primary, ...]:
        """The primaries of an axfr:// source, in order; none of another."""
        if self.scheme != "axfr":
            return ()
        return tuple(addresses.parse_primary(each)[0] for each in (self.source, *self.mirrors))

    @property
    def zone(self) -> str:
        """The zone of an axfr:// source: lower-case, without the final dot; empty for another."""
        return addresses.parse_primary(self.source)[1] if self.scheme == "axfr" else ""

    @property
    def is_remote(self) -> bool:
        """Whether the list comes from another machine."""
        return self.scheme != "file"

    @property
    def shown(self) -> str:
        """The source as it may be shown: without a password."""
        return addresses.shown_url(self.source) if self.is_remote else self.source

    @property
    def scheme(self) -> Literal["file", "http", "https", "axfr"]:
        """How the source is reached."""
        for scheme in ("http", "https", "axfr"):
            if self.source.startswith(f"{scheme}://"):
                return scheme
        return "file"

    @property
    def path(self) -> Path:
        """A file source as an absolute path, which may hold `*`, `?` and `[]`."""
        if self.scheme != "file":
            raise ValueError(f"{self.source} is no file")
        return _expand(self._base, self.source)

    @property
    def is_glob(self) -> bool:
        """Whether the source stands for any number of files."""
        return self.scheme == "file" and not GLOB_CHARACTERS.isdisjoint(self.source)

    @property
    def folder(self) -> Path:
        """The deepest folder that is certain to hold the source's files: what to watch."""
        return self._split()[0] if self.is_glob else self.path.parent

    def files(self) -> tuple[Path, ...]:
        """The source's files as they are now, sorted; a path without `*`, `?` or `[]` whether it exists or not."""
        if not self.is_glob:
            return (self.path,)
        folder, pattern = self._split()
        return tuple(sorted(found for found in folder.glob(pattern) if found.is_file()))

    def _split(self) -> tuple[Path, str]:
        """A glob's folder and what is to be found in it: the source is cut before the first part with a wildcard."""
        parts = Path(self.source).parts
        fixed = tuple(takewhile(GLOB_CHARACTERS.isdisjoint, parts))
        return _expand(self._base, str(Path(*fixed))), "/".join(parts[len(fixed) :])


class Fetch(_Section):
    """How lists are fetched over http:// and https://."""

    timeout: types.Seconds = Field(
        default=15.0,
        description="How long a source is waited for at each step: connection, TLS, first octet, each further octets.",
    )
    deadline: types.Seconds = Field(
        default=900.0, description="How long one transfer may take from end to end; what came by then is gone on with."
    )
    max_size: types.Size = Field(default=2**30, description="A body is no longer than this, as it is sent.")
    proxy: types.Text = Field(
        default="",
        description="The http:// or https:// address of a proxy, user:password@ included where it wants them.",
    )
    ca: types.Text = Field(
        default="", description="File with certificates, in PEM form, of authorities to trust besides the system's."
    )
    user_agent: types.Text = Field(default="tampah", min_length=1, description="What sources are told who asks.")

    @field_validator("timeout", "deadline")
    @classmethod
    def _waits_are_usable(cls, seconds: float) -> float:
        if not 0.1 <= seconds <= 86_400:
            raise ValueError("expected a time from 100ms to 1d")
        return seconds

    @field_validator("proxy")
    @classmethod
    def _proxy_is_one(cls, proxy: str) -> str:
        scheme, _, rest = proxy.partition("://")
        if proxy and (scheme not in ("http", "https") or not rest.strip("/")):
            raise ValueError("expected http://host:port or https://host:port")
        return proxy

    @field_validator("user_agent")
    @classmethod
    def _user_agent_is_printable(cls, text: str) -> str:
        if not text.isascii() or not text.isprintable():
            raise ValueError("expected printable ASCII")
        return text


class TsigKey(_Section):
    """A key that zone transfers are signed with (RFC 8945)."""

    name: types.Name = Field(description="The key's name, as the primary has it.")
    algorithm: Literal["hmac-sha256", "hmac-sha512"] = Field(default="hmac-sha256", description="Its algorithm.")
    secret: types.Text = Field(default="", repr=False, description="The secret in base64. Better in a file of its own.")
    secret_file: types.Text = Field(default="", description="A file that holds the secret in base64 and nothing else.")
    _base: Path = PrivateAttr(default_factory=Path.cwd)

    @field_validator("secret")
    @classmethod
    def _secret_is_base64(cls, secret: str) -> str:
        if secret:
            decode_secret(secret)
        return secret

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if bool(self.secret) == bool(self.secret_file):
            raise ValueError("expected either secret or secret_file")
        return self

    def octets(self) -> bytes:
        """The secret. OSError or ValueError, which never shows it, if its file cannot be used."""
        if self.secret:
            return decode_secret(self.secret)
        path = _expand(self._base, self.secret_file)
        try:
            return decode_secret(path.read_text())
        except (ValueError, UnicodeDecodeError):
            raise ValueError(f"{path}: expected a secret in base64, and nothing else") from None


def decode_secret(text: str) -> bytes:
    """The octets of a secret in base64; ValueError, which does not show it, if that is none."""
    try:
        octets = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        octets = b""
    if not octets:
        raise ValueError("expected a secret in base64") from None
    return octets


class Category(_Section):
    """How names of a category are answered, and what a client is told."""

    action: types.BlockAction | None = Field(
        default=None, description="What a blocked name gets; unset: sinkhole.action."
    )
    ttl: types.Ttl | None = Field(
        default=None, description="How long a client may keep the answer; unset: sinkhole.ttl."
    )
    ede: types.InfoCode = Field(default=EDE.BLOCKED, description="The Extended DNS Error of the answer (RFC 8914).")
    organisation: types.Text = Field(default="", description="Who wants it blocked.")
    justification: types.Text = Field(default="", description="Why it is blocked, in words for the client.")
    contact: types.Text = Field(default="", description="Whom to complain to: a mailto:, tel: or https: address.")
    law: types.Text = Field(default="", description="The law or order it is blocked by.")
    sub_error: Literal["none", "malware", "phishing", "spam", "spyware", "network_policy", "dns_policy"] = Field(
        default="none", description="What it is to clients that understand structured errors; not told with censored."
    )
    language: types.Text = Field(
        default="en", description="The language of organisation and justification, such as id (RFC 5646)."
    )

    @field_validator("language")
    @classmethod
    def _language_is_a_tag(cls, language: str) -> str:
        if not _LANGUAGE.fullmatch(language):
            raise ValueError("expected a language tag such as en, id or zh-Hant")
        return language


class Window(_Section):
    """A part of the week, by the clock on the wall."""

    days: types.Days = Field(
        default=calendar.EVERY_DAY,
        description="Days on which the window begins: mon to sun, and ranges such as mon-fri.",
    )
    start: types.Time = Field(default=0, alias="from", description="When it begins, such as 22:00.")
    end: types.Time = Field(
        default=calendar.MIDNIGHT, alias="to", description="When it ends; if not after `from`, on the next day."
    )
    timezone: types.Zone = Field(
        default="", description="Whose clock: a name such as Asia/Jakarta; empty: this machine's."
    )

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.start == self.end or self.start == calendar.MIDNIGHT:
            raise ValueError('expected `to` at another time than `from`; a whole day is from "00:00" to "24:00"')
        return self

    @property
    def window(self) -> calendar.Window:
        """The same for `schedule.active`."""
        return calendar.Window(self.days, self.start, self.end, calendar.zone_of(self.timezone))


class Group(_Section):
    """Clients that are filtered in their own way."""

    name: types.Word = Field(description="A word that names the group; unique.")
    clients: Annotated[tuple[types.Client, ...], Once] = Field(
        min_length=1,
        description="Who is in the group: addresses, networks, MAC addresses, and file:PATH, a file of them.",
    )
    categories: types.AllOrWords = Field(default="all", description="Lists of which categories apply to the group.")
    lists: types.AllOrWords = Field(default="all", description="Which of those lists apply to the group.")
    actions: dict[types.Word, types.BlockAction] = Field(
        default_factory=dict, description="Actions of this group instead of those of `categories`."
    )
    tags: Annotated[tuple[types.Tag, ...], Once] = Field(
        default=(), description="What $ctag of adblock rules calls the group's clients: user_child, os_ios and so on."
    )
    overrides: dict[types.Word, types.OverrideRule] = Field(
        default_factory=dict, description="What lists do for this group instead of their own `override`, by list."
    )
    shadow: types.YesNo = Field(
        default=False, description="Only count what would be blocked; mandatory lists are enforced all the same."
    )
    safe_search: types.SafeSearch | None = Field(
        default=None, description="SafeSearch for the group, as the key outside of groups; unset: as that says."
    )
    block_encrypted_dns: types.YesNo | None = Field(
        default=None,
        description="Whether names of public encrypted resolvers are blocked; unset: as the key outside says.",
    )
    upstream: Annotated[tuple[types.Server, ...], Once] = Field(
        default=(),
        description="Servers that the group's questions go to instead of upstream.servers; upstream.routes still win.",
    )
    schedule: tuple[Window, ...] = Field(
        default=(), description="When the group applies; empty: always. At other times its clients are not in it."
    )
    _base: Path = PrivateAttr(default_factory=Path.cwd)

    @property
    def networks(self) -> tuple[addresses.Network, ...]:
        """The clients that are known by address."""
        return tuple(client for client in self.clients if isinstance(client, IPv4Network | IPv6Network))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of clients as absolute paths."""
        return tuple(
            _expand(self._base, client.path) for client in self.clients if isinstance(client, addresses.ClientFile)
        )

    @property
    def windows(self) -> tuple[calendar.Window, ...]:
        """When the group applies, for `schedule.active`."""
        return tuple(window.window for window in self.schedule)

    @property
    def macs(self) -> tuple[addresses.Mac, ...]:
        """The clients that are known by hardware address."""
        return tuple(client for client in self.clients if isinstance(client, addresses.Mac))

    def takes(self, listed: ListConfig) -> bool:
        """Whether a list applies to the group: both its name and its category have to be among the group's."""
        by_name = self.lists == "all" or listed.name in self.lists
        return by_name and (self.categories == "all" or listed.category in self.categories)


class Dnssec(_Section):
    """Whether upstream's answers are checked. The word of `mode` alone may stand for the section."""

    mode: types.DnssecMode = Field(
        default="off", description="validate: answers with wrong signatures are withheld; off: upstream's word counts."
    )
    trust_anchor: types.Text = Field(
        default="",
        description="File with the DS or DNSKEY records that trust begins at; empty: the root's, as they are known here.",
    )
    negative_trust_anchors: Annotated[tuple[types.Name, ...], Once] = Field(
        default=(),
        description="Names that are not checked, with what is below them. Those of upstream.routes never are.",
    )
    _base: Path = PrivateAttr(default_factory=Path.cwd)

    @model_validator(mode="before")
    @classmethod
    def _word_is_mode(cls, data: object) -> object:
        return {"mode": data} if isinstance(data, str | bool) else data

    @property
    def anchor_path(self) -> Path | None:
        """`trust_anchor` as an absolute path; None where it is not given."""
        return _expand(self._base, self.trust_anchor) if self.trust_anchor else None


class Sinkhole(_Section):
    """How blocked names are answered where their category does not say."""

    action: types.BlockAction = Field(
        default=Action.ZERO,
        description="zero: 0.0.0.0 and ::. address: those below. Or nxdomain, nodata, refused, drop (no answer).",
    )
    ipv4: types.IPv4 = Field(default=IPv4Address("192.0.2.53"), description="The IPv4 address of action address.")
    ipv6: types.IPv6 = Field(default=IPv6Address("2001:db8::53"), description="The IPv6 address of action address.")
    ttl: types.Ttl = Field(default=DEFAULT_TTL, description="How long a client may keep the answer.")


class Rebinding(_Section):
    """Protection of machines inside from names outside that point at them."""

    protect: types.YesNo = Field(default=False, description="Block upstream's answers that have addresses in `ranges`.")
    ranges: Annotated[tuple[types.Network, ...], Once] = Field(
        default=_networks(*PRIVATE, "127.0.0.0/8", "169.254.0.0/16", "fc00::/7", "fe80::/10"),
        description="Addresses that no name outside should have.",
    )
    allow: Annotated[tuple[types.Name, ...], Once] = Field(
        default=(), description="Names that may have such addresses, with what is below them."
    )


class Rewrite(_Section):
    """A name that is answered here."""

    name: types.Pattern = Field(description="The name; `*.` before it stands for everything below it.")
    answers: Annotated[tuple[types.Answer, ...], Once] = Field(
        min_length=1, description="Addresses, or one name that it is an alias of."
    )
    ttl: types.Ttl = Field(default=DEFAULT_RECORD_TTL, description="How long a client may keep the answer.")

    @field_validator("answers")
    @classmethod
    def _alias_stands_alone(cls, answers: tuple[addresses.Address | str, ...]) -> tuple[addresses.Address | str, ...]:
        if len(answers) > 1 and any(isinstance(answer, str) for answer in answers):
            raise ValueError("expected addresses, or one domain name alone")
        return answers


class SpecialNames(_Section):
    """Names that are answered here and never asked upstream, but for zones of `upstream.routes`."""

    localhost: types.YesNo = Field(
        default=True, description="localhost and what is below it: 127.0.0.1 and ::1 (RFC 6761)."
    )
    invalid: types.YesNo = Field(default=True, description="invalid and what is below it: NXDOMAIN (RFC 6761).")
    test: types.YesNo = Field(default=True, description="test and what is below it: NXDOMAIN (RFC 6761).")
    onion: types.YesNo = Field(default=True, description="onion and what is below it: NXDOMAIN (RFC 7686).")
    home_arpa: types.YesNo = Field(
        default=True, description="home.arpa and what is below it: an empty zone (RFC 8375)."
    )
    private_reverse: types.YesNo = Field(
        default=True, description="Reverse zones of private and special addresses: empty ones (RFC 6303, RFC 7793)."
    )
    resolver_arpa: types.YesNo = Field(
        default=True,
        description="resolver.arpa: where this server's encrypted listeners are, if it has any (RFC 9462).",
    )
    firefox_canary: types.YesNo = Field(
        default=True, description="use-application-dns.net: NXDOMAIN, so that Firefox keeps to this server by itself."
    )
    icloud_relay: types.YesNo = Field(
        default=True, description="mask.icloud.com and mask-h2.icloud.com: NXDOMAIN, so that Private Relay is not used."
    )


class Dns64(_Section):
    """IPv6 addresses for names that have IPv4 addresses alone (RFC 6147)."""

    prefix: types.Dns64Prefix = Field(
        default=None,
        description="The prefix that IPv4 addresses are put behind, of 32, 40, 48, 56, 64 or 96 bits; empty: off.",
    )
    clients: Annotated[tuple[types.Network, ...], Once] = Field(
        default=(), description="Who gets such addresses; empty: everybody."
    )
    exclude: Annotated[tuple[types.Network, ...], Once] = Field(
        default=(),
        description="Addresses that are as good as none: IPv6 ones besides ::ffff:0:0/96 do not keep a name from getting "
        "made ones, IPv4 ones are put behind no prefix.",
    )


class RateLimit(_Section):
    """How much one client may ask over UDP."""

    per_second: types.Number = Field(
        default=0, ge=0, le=10**6, description="Queries a second and network over UDP; 0: no limit."
    )
    prefix4: types.Number = Field(
        default=24, ge=0, le=32, description="IPv4 clients with this prefix in common count as one."
    )
    prefix6: types.Number = Field(
        default=56, ge=0, le=128, description="IPv6 clients with this prefix in common count as one."
    )
    action: Literal["truncate", "drop", "refuse"] = Field(
        default="truncate",
        description="What happens beyond per_second; truncate: an empty answer that asks to come by TCP.",
    )
    responses_per_second: types.Number = Field(
        default=0,
        ge=0,
        le=10**6,
        description="Answers of one kind a second and network over UDP, for ports that strangers can reach; 0: no limit.",
    )
    slip: types.Number = Field(
        default=2,
        ge=0,
        le=1000,
        description="One of so many answers beyond responses_per_second asks to come by TCP, the others are dropped; "
        "0: all are.",
    )


class Identity(_Section):
    """What the server tells of itself. Empty: nothing, REFUSED."""

    version: types.Text = Field(
        default="", description="The answer to version.bind and version.server, class CH, type TXT."
    )
    id: types.Text = Field(default="", description="The answer to id.server and hostname.bind, class CH, type TXT.")
    nsid: types.Text = Field(default="", description="What clients get that ask for it by EDNS (NSID, RFC 5001).")

    @field_validator("version", "id", "nsid")
    @classmethod
    def _fits(cls, text: str, info: ValidationInfo) -> str:
        most = 64 if info.field_name == "nsid" else 255
        if len(text.encode()) > most:
            raise ValueError(f"expected at most {most} octets")
        return text


class StructuredErrors(_Section):
    """Errors in a form for programs (draft-ietf-dnsop-structured-dns-error)."""

    code: types.Number = Field(
        default=0,
        ge=0,
        le=65_534,
        description="Code of the EDNS option by which clients ask for them, until one is assigned; 0: off.",
    )

    @field_validator("code")
    @classmethod
    def _code_is_free(cls, code: int) -> int:
        if 0 < code < 20:
            raise ValueError("expected a code that no other option has: 20 or more")
        return code


class Cookies(_Section):
    """DNS cookies (RFC 7873, RFC 9018)."""

    enabled: types.YesNo = Field(default=True, description="Whether a client's cookie is answered with ours.")
    require: types.YesNo = Field(
        default=False,
        description="Whether a client has to prove its address by one over UDP; until then it gets no more octets than it "
        "sent: BADCOOKIE, or TC so that it comes by TCP.",
    )

    @field_validator("require")
    @classmethod
    def _none_without_cookies(cls, require: bool, info: ValidationInfo) -> bool:
        if require and not info.data.get("enabled", True):
            raise ValueError("expected no: cookies.enabled is no")
        return require


class Ecs(_Section):
    """What upstream servers are told of a client's network (EDNS Client Subnet, RFC 7871)."""

    policy: Literal["strip", "forward", "set"] = Field(
        default="strip",
        description="strip: nothing. forward: what the client says of itself. set: its network, unless it objects.",
    )
    prefix4: types.Number = Field(default=24, ge=0, le=32, description="Bits of an IPv4 address that are told at most.")
    prefix6: types.Number = Field(
        default=56, ge=0, le=128, description="Bits of an IPv6 address that are told at most."
    )


class Connections(_Section):
    """How many connections clients may keep. One too many takes the place of the idlest."""

    per_worker: types.Number = Field(
        default=20_000, ge=1, le=10**6, description="Connections of one worker, as far as it may open files."
    )
    per_client: types.Number = Field(default=64, ge=1, le=10**6, description="Connections of one client to one worker.")
    idle: types.Seconds = Field(
        default=10.0, description="How long one may be idle; less as the second half of the places fills."
    )

    @field_validator("idle")
    @classmethod
    def _idle_is_usable(cls, idle: float) -> float:
        if not 0.5 <= idle <= 3600:
            raise ValueError("expected 500ms to 1h")
        return idle


class Admin(_Section):
    """HTTP for the operator: API, dashboard, metrics and health."""

    listen: types.OptionalEndpoint = Field(
        default=addresses.Endpoint("127.0.0.1", 8053),
        description="Address of the API, dashboard, /metrics, /healthz and /readyz; empty: none.",
    )
    token_file: types.Text = Field(
        default="",
        description="A file with the token that changes over HTTP need, and nothing else; empty: there is none.",
    )
    trust_loopback: types.YesNo = Field(
        default=False, description="Whether a client on this machine may change things over HTTP without the token."
    )


class QueryLog(_Section):
    """What is remembered of queries, and what counts towards the names asked most."""

    keep: types.Ttl = Field(default=7 * 86_400, description="Older records are deleted.")
    what: Literal["all", "blocked", "none"] = Field(default="all", description="Which queries are recorded.")
    clients: Literal["full", "prefix", "hash", "none"] = Field(
        default="full", description="How a client is recorded: its address, its network, a keyed hash, or not at all."
    )
    size: types.Size = Field(default=2**30, description="The oldest records are deleted beyond this size.")


class Guard(_Section):
    """What a changed list may do without being asked about."""

    shrink: types.Share = Field(
        default=0.30, description="A list that loses this share of its names at once is held; no: never."
    )
    grow: types.Share = Field(
        default=1.00, description="A list that grows by this share of its names at once is held; no: never."
    )
    floor: types.Number = Field(
        default=20, ge=0, le=10**6, description="A change by at most so many names is not held, unless none is left."
    )
    public_suffixes: Literal["all", "registries", "none"] = Field(
        default="all",
        description="Which public suffixes are protected, top-level domains among them: all, those of registries, or none.",
    )
    protect: types.NamesOrFile = Field(
        default=(), description="Names that no new rule may block: a list, or a file with one on each line."
    )
    asked: types.Number = Field(
        default=1000, ge=0, le=100_000, description="How many of the names most asked in the last day are protected."
    )
    asked_times: types.Number = Field(
        default=50, ge=1, le=10**9, description="Of these, only names that were asked at least so often."
    )
    asked_by: types.Number = Field(
        default=1, ge=1, le=10**6, description="Of these, only names that at least so many clients asked for."
    )
    keep_generations: types.Number = Field(
        default=10, ge=3, le=1000, description="How many generations are kept to go back to."
    )
    keep_size: types.Size = Field(
        default=4 * 2**30, description="Generations before the last three are deleted beyond this size of all files."
    )


@dataclass(frozen=True, slots=True)
class BlockAnswer:
    """How a category's names are answered, defaults filled in. `ttl` in seconds; `ede` None: no Extended DNS Error."""

    action: Action
    ttl: int
    ipv4: IPv4Address
    ipv6: IPv6Address
    ede: EDE | None
    organisation: str = ""
    justification: str = ""
    contact: str = ""
    law: str = ""


class Config(_Section):
    """The whole configuration. Every key may be left out."""

    listen: Listen = Field(default_factory=Listen, description="Where queries are taken.")
    workers: types.Workers = Field(default="auto", description="How many processes answer queries; auto: one a core.")
    state_dir: types.Text = Field(
        default="./state", min_length=1, description="Folder for index, last good lists, databases and control socket."
    )
    user: types.Text = Field(default="", description="Drop to this user after binding the sockets; empty: stay.")
    allow_from: Annotated[tuple[types.Network, ...], Once] = Field(
        default=_networks("127.0.0.0/8", "::1", *PRIVATE, "fc00::/7"), description="Who may ask; others get REFUSED."
    )
    upstream: Upstream = Field(default_factory=Upstream, description="Who is asked for what is not blocked.")
    dnssec: Dnssec = Field(default_factory=Dnssec, description="Whether upstream's answers are checked.")
    cache: Cache = Field(default_factory=Cache, description="How long and how much of upstream's answers is kept.")
    lists: tuple[ListConfig, ...] = Field(
        default=(), max_length=counters.NO_LIST, description="The lists of names to block or allow."
    )
    fetch: Fetch = Field(default_factory=Fetch, description="How lists are fetched over http:// and https://.")
    categories: dict[types.Word, Category] = Field(
        default_factory=dict, description="How names of each category are answered, by the category's name."
    )
    groups: tuple[Group, ...] = Field(
        default=(), description="The first whose clients match counts; a client in none gets every list."
    )
    tsig_keys: tuple[TsigKey, ...] = Field(default=(), description="The keys that lists name by `tsig`.")
    sinkhole: Sinkhole = Field(default_factory=Sinkhole, description="How blocked names are answered by default.")
    rebinding: Rebinding = Field(default_factory=Rebinding, description="Protection against DNS rebinding.")
    rewrites: tuple[Rewrite, ...] = Field(default=(), description="Names that are answered here.")
    records: Annotated[tuple[types.Record, ...], Once] = Field(
        default=(), description="Further records of such names, each in the form of a zone file."
    )
    local_zones: Annotated[tuple[types.Name, ...], Once] = Field(
        default=(),
        description="Names of which, with all below them, only rewrites and records exist: nothing is asked upstream.",
    )
    special_names: SpecialNames = Field(
        default_factory=SpecialNames, description="Names that are answered here and never asked upstream."
    )
    block_encrypted_dns: types.YesNo = Field(
        default=False, description="Block the names of public encrypted resolvers, a list that comes with the program."
    )
    safe_search: types.SafeSearch = Field(
        default=(),
        description="Search engines that are to filter their results: yes, no, or some of google, youtube, "
        "youtube-moderate, bing, duckduckgo.",
    )
    dns64: Dns64 = Field(default_factory=Dns64, description="IPv6 addresses for names that have IPv4 addresses alone.")
    rate_limit: RateLimit = Field(default_factory=RateLimit, description="How much one client may ask over UDP.")
    identity: Identity = Field(default_factory=Identity, description="What the server tells of itself.")
    structured_errors: StructuredErrors = Field(
        default_factory=StructuredErrors, description="Errors in a form for programs."
    )
    cookies: Cookies = Field(default_factory=Cookies, description="DNS cookies (RFC 7873).")
    ecs: Ecs = Field(default_factory=Ecs, description="What upstream servers are told of a client's network.")
    connections: Connections = Field(
        default_factory=Connections, description="How many connections clients may keep, and for how long."
    )
    guard: Guard = Field(
        default_factory=Guard, description="What a changed list may do without being asked about; and what is kept."
    )
    admin: Admin = Field(default_factory=Admin, description="HTTP for the operator.")
    query_log: QueryLog = Field(default_factory=QueryLog, description="What is remembered of queries.")

    _file: Path | None = PrivateAttr(default=None)
    _base: Path = PrivateAttr(default_factory=Path.cwd)
    _warnings: tuple[Problem, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _servers_are_countable(self) -> Self:
        if len(self.upstream_servers) > counters.SERVERS:
            raise ValueError(
                f"expected at most {counters.SERVERS} different upstream servers, those of routes and groups included"
            )
        if 1 + len(self.upstream.routes) + len({group.upstream for group in self.groups} - {()}) > ROUTES:
            message = f"expected at most {ROUTES - 1} routes: those of zones and the different `upstream` of groups"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _settle(self, info: ValidationInfo) -> Self:
        """Take file and warnings from the context, and tell the lists where relative paths start."""
        context = info.context or {}
        self._file = context.get("file")
        self._warnings = tuple(context.get("warnings", ()))
        self._base = Path.cwd() if self._file is None else self._file.parent
        for listed in self.lists:
            listed._base = self._base
        for group in self.groups:
            group._base = self._base
        for key in self.tsig_keys:
            key._base = self._base
        self.dnssec._base = self._base
        return self

    @property
    def file(self) -> Path | None:
        """The file this was read from, absolute; None if it was not read from one."""
        return self._file

    @property
    def base(self) -> Path:
        """The folder where relative paths start, absolute."""
        return self._base

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What the file asks for and does not get."""
        return self._warnings

    @property
    def state_path(self) -> Path:
        """`state_dir` as an absolute path."""
        return _expand(self._base, self.state_dir)

    @property
    def is_encrypted(self) -> bool:
        """Whether there are listeners that show a certificate."""
        return bool(self.listen.tls or self.listen.https or self.listen.quic)

    @property
    def certificate_paths(self) -> tuple[Path, Path] | None:
        """Chain and key as absolute paths; None where they are not given."""
        certificate = self.listen.certificate
        if not (certificate.chain and certificate.key):
            return None
        return _expand(self._base, certificate.chain), _expand(self._base, certificate.key)

    @property
    def protect_path(self) -> Path | None:
        """The file of protected names as an absolute path; None where the names are in the configuration itself."""
        return _expand(self._base, self.guard.protect) if isinstance(self.guard.protect, str) else None

    @property
    def token_path(self) -> Path | None:
        """`admin.token_file` as an absolute path; None where it is not given."""
        return _expand(self._base, self.admin.token_file) if self.admin.token_file else None

    @property
    def ca_path(self) -> Path | None:
        """`fetch.ca` as an absolute path; None where it is not given."""
        return _expand(self._base, self.fetch.ca) if self.fetch.ca else None

    @property
    def upstream_servers(self) -> tuple[addresses.Server, ...]:
        """Every upstream server once: the default ones, those of routes, of groups, and of the bootstrap."""
        of_routes = (server for route in self.upstream.routes for server in route.servers)
        of_groups = (server for group in self.groups for server in group.upstream)
        return tuple(dict.fromkeys((*self.upstream.servers, *of_routes, *of_groups, *self.upstream.bootstrap)))

    @property
    def upstream_ca(self) -> Path | None:
        """`upstream.ca` as an absolute path; None where it is not given."""
        return _expand(self._base, self.upstream.ca) if self.upstream.ca else None

    @property
    def worker_count(self) -> int:
        """How many workers to start: `workers`, or the number of cores this process may use."""
        if self.workers != "auto":
            return self.workers
        return min(len(os.sched_getaffinity(0)), types.MAX_WORKERS)

    def answer_for(self, category: str, group: Group | None = None) -> BlockAnswer:
        """How blocked names of a category are answered, for a group where that matters; sinkhole fills the gaps."""
        own = self.categories.get(category, Category())
        action = own.action if own.action is not None else self.sinkhole.action
        if group is not None:
            action = group.actions.get(category, action)
        return BlockAnswer(
            action=action,
            ttl=own.ttl if own.ttl is not None else self.sinkhole.ttl,
            ipv4=self.sinkhole.ipv4,
            ipv6=self.sinkhole.ipv6,
            ede=own.ede,
            organisation=own.organisation,
            justification=own.justification,
            contact=own.contact,
            law=own.law,
        )

    def to_json(self) -> str:
        """The configuration as text for another process; `from_json` reads it back, warnings apart."""
        file = str(self._file) if self._file else None
        return to_json({"file": file, "config": self.model_dump(mode="json", by_alias=True)}).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        message = from_json(text)
        file = Path(message["file"]) if message["file"] else None
        return cls.model_validate(message["config"], context={"file": file})
