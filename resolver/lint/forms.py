"""The forms that lines have, and what each is taken for here and by other filters: one table, `FORMS`.

A form is told from a line's text and the dialect that its file is read in; what it means *here* is what the parsers
make of it, which tests hold against the table. What others make of it, and where that is written:

    AdGuard Home    its wiki, "DNS filtering rules" (basic examples, hosts and domains-only syntax, modifiers), and the
                    engine that it uses, AdguardTeam/urlfilter: rules/network.go (a rule is a pattern, for http:// and the
                    name if it begins with a scheme, else for the name or an answer's address), rules/host.go
    Pi-hole         src/tools/gravity-parseList.c of FTL: names, `||name^`, and `@@||name^` in allow lists, anything else is
                    invalid; gravity.sh before it takes comments away and addresses in front of names
    Blocky          its documentation, "Blocking and whitelisting" (hosts, plain, `*.name` with the name itself,
                    /expression/, addresses of answers; maxErrorsPerSource), lists/parsers/: `||` and `^` are stripped,
                    everything from a `#` on is a comment, what then is no name is an error
    Unbound         unbound.conf(5): local-zone, local-data, rpz; unbound-checkconf refuses every other line
    dnsmasq         dnsmasq(8): --address, --server, --local, --bogus-nxdomain, --addn-hosts; `dnsmasq --test` refuses others

A column is empty where nobody has said, and nothing is told then.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from resolver.lists.parse.adblock import is_cosmetic, is_rule
from resolver.lists.parse.base import is_address, is_network, without_comment
from resolver.lists.parse.detect import shape_of
from resolver.lists.parse.dnsmasq import BOGUS, RULE
from resolver.lists.parse.hosts import is_local, is_routable
from resolver.lists.parse.modifiers import split_rule
from resolver.lists.parse.unbound import SETTING
from resolver.vocabulary import Scope, Verb

PEERS = ("AdGuard Home", "Pi-hole", "Blocky", "Unbound", "dnsmasq")

_COVERS = {
    Scope.SELF: "the name alone",
    Scope.BELOW: "what is below the name, not the name itself",
    Scope.BOTH: "the name and what is below it",
}


class Reading(NamedTuple):
    """What somebody takes a line for: a rule for names where there is a verb, else what `note` says."""

    verb: Verb | None = None
    scope: Scope | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.verb is None or self.scope is None:
            return self.note
        said = f"{'blocks' if self.verb is Verb.BLOCK else 'allows'} {_COVERS[self.scope]}"
        return f"{said}{', ' if self.note else ''}{self.note}"


class Form(NamedTuple):
    """A way to write a line: an example, and what it is taken for, here and by each of PEERS (None: not known)."""

    key: str
    example: str
    here: Reading
    peers: tuple[Reading | None, Reading | None, Reading | None, Reading | None, Reading | None]

    def differing(self) -> dict[str, str]:
        """Those who take it for something else, and for what."""
        return {
            peer: str(reading)
            for peer, reading in zip(PEERS, self.peers, strict=True)
            if reading is not None and reading != self.here
        }


def _blocks(scope: Scope, note: str = "") -> Reading:
    return Reading(Verb.BLOCK, scope, note)


def _allows(scope: Scope, note: str = "") -> Reading:
    return Reading(Verb.ALLOW, scope, note)


def _says(note: str) -> Reading:
    return Reading(note=note)


_SELF, _BELOW, _BOTH = Scope.SELF, Scope.BELOW, Scope.BOTH
_SKIPPED = _says("skipped: the line is not read")
_BROKEN = _says("no line of its configuration: it does not start")
_ERROR = _says("an error: the line is skipped, and a list with more than five of them counts as broken")
_CONF = (_BROKEN, _BROKEN)  # Unbound and dnsmasq about everything that is not theirs
_LISTS_SKIP = (_SKIPPED, _SKIPPED, _ERROR)  # the list readers about lines of other programs' configurations
_PAGES = _says("nothing: it speaks of parts of pages, and is dropped")
_PATTERN = _says("blocks every name that fits the pattern")
_ANSWERS = _says("blocks answers that lead to this address")
_RESTRICTED = "for the clients, types or names that it is restricted to"


def _unbound(kind: str, here: Reading, key: str = "") -> Form:
    name = f"unbound {key or kind}"
    return Form(name, f'local-zone: "x.com" {kind}', here, (*_LISTS_SKIP, here, _BROKEN))


_ROWS = (
    # -- names ---------------------------------------------------------------------------------------------------------
    Form(
        "name",
        "x.com",
        _blocks(_BOTH),
        (_blocks(_SELF), _blocks(_SELF), _blocks(_SELF), *_CONF),
    ),
    Form(
        "name alone",
        "x.com",
        _blocks(_SELF),  # subdomains: no
        (_blocks(_SELF), _blocks(_SELF), _blocks(_SELF), *_CONF),
    ),
    Form("wildcard", "*.x.com", _blocks(_BOTH), (_blocks(_BELOW), _SKIPPED, _blocks(_BOTH), *_CONF)),
    Form("wildcard of adblock", "*.x.com", _blocks(_BELOW), (_blocks(_BELOW), _SKIPPED, _blocks(_BOTH), *_CONF)),
    Form(
        "leading dot",
        ".x.com",
        _blocks(_BOTH),
        (_says("a pattern: blocks every name that has this text in it"), _SKIPPED, _ERROR, *_CONF),
    ),
    Form(
        "URL",
        "https://x.com/page",
        _blocks(_BOTH, "the path left out"),
        (
            _says("a pattern for http:// and a name: with https:// or a path it fits none"),
            _SKIPPED,
            _ERROR,
            *_CONF,
        ),
    ),
    # -- hosts files ---------------------------------------------------------------------------------------------------
    Form(
        "hosts",
        "0.0.0.0 x.com",
        _blocks(_SELF),
        (
            _blocks(_SELF),
            _blocks(_SELF),
            _blocks(_SELF),
            _BROKEN,
            _says("gives the name alone this address (addn-hosts); other record types are asked upstream"),
        ),
    ),
    Form(
        "hosts with several names",
        "0.0.0.0 x.com y.com",
        _blocks(_SELF, "each of them"),
        (
            _blocks(_SELF, "each of them"),
            _blocks(_SELF, "each of them"),
            _blocks(_SELF, "each of them"),
            _BROKEN,
            _says("gives each name alone this address (addn-hosts); other record types are asked upstream"),
        ),
    ),
    Form(
        "hosts with another machine's address",
        "192.0.2.1 x.com",
        _blocks(_SELF, "whatever the address (the list's rewrite: yes answers it)"),
        (
            _says("answers with this address"),
            _blocks(_SELF, "whatever the address"),
            _blocks(_SELF, "whatever the address"),
            _BROKEN,
            _says("answers with this address (addn-hosts)"),
        ),
    ),
    Form(
        "hosts, a machine's own names",
        "127.0.0.1 localhost",
        _says("skipped: a machine's own names"),
        (
            _says("answers with this address"),
            _says("skipped: a machine's own names"),
            _blocks(_SELF),
            _BROKEN,
            _says("gives the name alone this address (addn-hosts); other record types are asked upstream"),
        ),
    ),
    # -- adblock ---------------------------------------------------------------------------------------------------------
    Form("||name^", "||x.com^", _blocks(_BOTH), (_blocks(_BOTH), _blocks(_BOTH), _blocks(_SELF), *_CONF)),
    Form("||*.name^", "||*.x.com^", _blocks(_BELOW), (_blocks(_BELOW), _SKIPPED, _ERROR, *_CONF)),
    Form("|name^", "|x.com^", _blocks(_SELF), (_blocks(_SELF), _SKIPPED, _ERROR, *_CONF)),
    Form(
        "||name without ^",
        "||x.com",
        _says("a pattern: blocks every name that begins like this at a label, also x.com.example"),
        (
            _says("a pattern: blocks every name that begins like this at a label, also x.com.example"),
            _SKIPPED,
            _blocks(_SELF),
            *_CONF,
        ),
    ),
    Form(
        "||name^$important",
        "||x.com^$important",
        _blocks(_BOTH, "above every exception that is not important"),
        (_blocks(_BOTH, "above every exception that is not important"), _SKIPPED, _ERROR, *_CONF),
    ),
    Form(
        "@@||name^",
        "@@||x.com^",
        _allows(_BOTH, "across all lists of the client's group"),
        (
            _allows(_BOTH, "across all lists of the client's group"),
            _says("skipped in a block list; in an allow list it allows the name and what is below it"),
            _ERROR,
            *_CONF,
        ),
    ),
    Form(
        "@@||name^$important",
        "@@||x.com^$important",
        _allows(_BOTH, "above every other rule"),
        (_allows(_BOTH, "above every other rule"), _SKIPPED, _ERROR, *_CONF),
    ),
    Form(
        "@@ and something else",
        "@@|x.com^",
        _says("an exception across all lists of the client's group"),
        (_says("an exception across all lists of the client's group"), _SKIPPED, _ERROR, *_CONF),
    ),
    Form("name^", "x.com^", _PATTERN, (_PATTERN, _SKIPPED, _blocks(_SELF), *_CONF)),
    Form("pattern", "ads*.x.com", _PATTERN, (_PATTERN, _SKIPPED, _ERROR, *_CONF)),
    Form(
        "expression",
        "/ads[0-9]+/",
        _PATTERN,
        (_PATTERN, _says("skipped: expressions are set in its own configuration, not in lists"), _PATTERN, *_CONF),
    ),
    *(
        Form(
            f"${word}",
            f"||x.com^${word}={value}",
            _blocks(_BOTH, note),
            (_blocks(_BOTH, note), _SKIPPED, _ERROR, *_CONF),
        )
        for word, value, note in (
            ("client", "192.0.2.9", _RESTRICTED),
            ("ctag", "user_child", _RESTRICTED),
            ("dnstype", "A", _RESTRICTED),
            ("denyallow", "a.x.com", "but for the names it lists and what is below them"),
        )
    ),
    Form(
        "$dnsrewrite",
        "||x.com^$dnsrewrite=192.0.2.1",
        _says("answers as it says; a badfilter cancels it"),
        (_says("answers as it says; no badfilter cancels it"), _SKIPPED, _ERROR, *_CONF),
    ),
    Form(
        "$badfilter",
        "||x.com^$badfilter",
        _says("cancels the same rule without it, however often it stands there"),
        (_says("cancels the same rule without it; two of them cancel each other"), _SKIPPED, _ERROR, *_CONF),
    ),
    Form("page-level modifier", "||x.com^$third-party", _PAGES, (_PAGES, _SKIPPED, _ERROR, *_CONF)),
    Form(
        "cosmetic",
        "x.com##.banner",
        _PAGES,
        (_PAGES, _SKIPPED, _blocks(_SELF, "as what follows # is a comment"), *_CONF),
    ),
    # -- addresses -------------------------------------------------------------------------------------------------------
    Form(
        "address",
        "198.51.100.1",
        _says("blocks answers that lead to this address"),
        (
            _says("blocks answers that lead to this address"),
            _SKIPPED,
            _says("blocks answers that lead to this address"),
            *_CONF,
        ),
    ),
    Form(
        "prefix",
        "198.51.100.0/24",
        _says("blocks answers that lead to these addresses"),
        (
            _says("a pattern with a slash, which no name and no address has: it blocks nothing"),
            _SKIPPED,
            _ERROR,
            *_CONF,
        ),
    ),
    # -- dnsmasq -----------------------------------------------------------------------------------------------------------
    Form(
        "dnsmasq address=/name/",
        "address=/x.com/",
        _blocks(_BOTH, "as not existing"),
        (*_LISTS_SKIP, _BROKEN, _blocks(_BOTH, "as not existing")),
    ),
    Form(
        "dnsmasq address=/name/#",
        "address=/x.com/#",
        _blocks(_BOTH, "with 0.0.0.0 and ::"),
        (*_LISTS_SKIP, _BROKEN, _blocks(_BOTH, "with 0.0.0.0 and ::")),
    ),
    Form(
        "dnsmasq address=/name/0.0.0.0",
        "address=/x.com/0.0.0.0",
        _blocks(_BOTH, "with 0.0.0.0 and ::"),
        (*_LISTS_SKIP, _BROKEN, _blocks(_BOTH, "with 0.0.0.0, and with no data for AAAA")),
    ),
    Form(
        "dnsmasq address=/name/ADDRESS",
        "address=/x.com/192.0.2.1",
        _says("answers the name and what is below it with this address"),
        (*_LISTS_SKIP, _BROKEN, _says("answers the name and what is below it with this address")),
    ),
    Form(
        "dnsmasq server=/name/ or local=/name/",
        "local=/x.com/",
        _blocks(_BOTH, "as not existing"),
        (*_LISTS_SKIP, _BROKEN, _blocks(_BOTH, "as not existing")),
    ),
    Form(
        "dnsmasq server=/name/ADDRESS",
        "server=/x.com/192.0.2.1",
        _says("refused: it forwards the name, see upstream.routes"),
        (*_LISTS_SKIP, _BROKEN, _says("forwards the name and what is below it to this server")),
    ),
    Form(
        "dnsmasq pattern",
        "address=/*x.com/#",
        _says("blocks every name that ends like this"),
        (*_LISTS_SKIP, _BROKEN, _says("blocks every name that ends like this")),
    ),
    Form(
        "dnsmasq bogus-nxdomain",
        "bogus-nxdomain=198.51.100.1",
        _says("answers that lead to this address become NXDOMAIN"),
        (*_LISTS_SKIP, _BROKEN, _says("answers that lead to this address become NXDOMAIN")),
    ),
    # -- Unbound -----------------------------------------------------------------------------------------------------------
    _unbound("always_null", _blocks(_BOTH, "with 0.0.0.0 and ::")),
    _unbound("always_nxdomain", _blocks(_BOTH, "as not existing"), "always_nxdomain or static"),
    _unbound("always_nodata", _blocks(_BOTH, "without data")),
    _unbound("deny", _blocks(_BOTH, "without an answer")),
    _unbound("refuse", _blocks(_BOTH, "with REFUSED")),
    _unbound("redirect", _blocks(_BOTH, "with the zone's local data")),
    _unbound("transparent", _allows(_BOTH)),
    Form(
        "unbound local-data",
        'local-data: "x.com A 192.0.2.1"',
        _says("answers the name with this record"),
        (*_LISTS_SKIP, _says("answers the name with this record"), _BROKEN),
    ),
    # -- response policy zones -------------------------------------------------------------------------------------------
    Form(
        "rpz name",
        "x.com CNAME .",
        _says("acts on the name alone, as its record says"),
        (*_LISTS_SKIP, _says("acts on the name alone, as its record says"), _BROKEN),
    ),
    Form(
        "rpz wildcard",
        "*.x.com CNAME .",
        _says("acts on what is below the name, not on the name itself"),
        (*_LISTS_SKIP, _says("acts on what is below the name, not on the name itself"), _BROKEN),
    ),
    Form(
        "rpz other trigger",
        "32.1.2.0.192.rpz-ip CNAME .",
        _says("acts on answers, clients or name servers"),
        (*_LISTS_SKIP, _says("acts on answers, clients or name servers"), _BROKEN),
    ),
)
FORMS = {form.key: form for form in _ROWS}
REFUSED_FORMS = frozenset({"page-level modifier", "cosmetic", "dnsmasq server=/name/ADDRESS"})  # here
OTHER = "other"  # a line of none of these forms
COMMENT = "comment"

_MODIFIERS = ("badfilter", "dnsrewrite", "denyallow", "client", "ctag", "dnstype")
_ZONES = {
    "static": "always_nxdomain",
    "always_nxdomain": "always_nxdomain",
    "always_deny": "deny",
    "inform_deny": "deny",
    "always_refuse": "refuse",
    "inform_redirect": "redirect",
    "always_transparent": "transparent",
}
_RPZ_TRIGGER = re.compile(r"(?:^|\.)rpz-(?:ip|nsip|nsdname|client-ip)\b", re.IGNORECASE)


def form_of(text: str, dialect: str, subdomains: str = "auto") -> str:
    """The key of a line's form in a file of a dialect, OTHER if it has none of them, COMMENT if it says nothing."""
    if dialect == "mixed":
        dialect = shape_of(text) or COMMENT
    if dialect == "rpz":
        return _rpz_form(text)
    if dialect == "unbound":
        return _unbound_form(text.strip())
    if dialect == "adblock" and is_cosmetic(text):
        return "cosmetic"
    body = without_comment(text)
    if not body or dialect == COMMENT:
        return COMMENT
    if dialect == "dnsmasq":
        return _dnsmasq_form(body)
    if dialect == "hosts" or (dialect == "adblock" and not is_rule(body) and _begins_with_address(body)):
        return _hosts_form(body)
    if dialect == "adblock" and is_rule(body):
        return _rule_form(body)
    return _plain_form(body, dialect, subdomains)


def _begins_with_address(body: str) -> bool:
    words = body.split(maxsplit=1)
    return len(words) > 1 and is_address(words[0])


def _plain_form(body: str, dialect: str, subdomains: str) -> str:
    if is_network(body):
        return "address" if is_address(body) else "prefix"
    if dialect == "addresses":
        return OTHER
    if "://" in body:
        return "URL"
    if body.startswith("*."):
        return "wildcard of adblock" if dialect == "adblock" else "wildcard"
    if body.startswith("."):
        return "leading dot"
    if len(body) > 2 and body.startswith("/") and body.endswith("/"):
        return "expression"
    if "*" in body or "^" in body:
        return "name^" if body.endswith("^") and not set(body[:-1]) & set("*^|") else "pattern"
    return ("name alone" if subdomains == "no" else "name") if "." in body and " " not in body else OTHER


def _hosts_form(body: str) -> str:
    address, *names = body.split()
    if not names:
        return OTHER
    if all(is_local(name.lower().removesuffix("."), frozenset()) for name in names):
        return "hosts, a machine's own names"
    if is_address(address) and is_routable(address):
        return "hosts with another machine's address"
    return "hosts with several names" if len(names) > 1 else "hosts"


def _rule_form(body: str) -> str:
    pattern, text = split_rule(body.removeprefix("@@"))
    is_exception = body.startswith("@@")
    words = {item.partition("=")[0].strip().lower() for item in text.split(",")} if text else set()
    for word in _MODIFIERS:
        if word in words:
            return "@@ and something else" if is_exception and word != "badfilter" else f"${word}"
    if words - {"important"}:
        return "page-level modifier"
    form = _pattern_form(pattern)
    if is_exception:
        form = f"@@{form}" if form == "||name^" else "@@ and something else"
    if words:
        form = f"{form}$important" if f"{form}$important" in FORMS else form
    return form


def _pattern_form(pattern: str) -> str:
    address = pattern.removeprefix("||").removesuffix("^")
    if is_network(address):
        return "address" if is_address(address) else "prefix"
    if len(pattern) > 2 and pattern.startswith("/") and pattern.endswith("/"):
        return "expression"
    inside = pattern.strip("|^")
    ends = pattern.endswith(("^", "|"))
    if inside.startswith("*.") and "*" not in inside[1:] and ends:
        return "||*.name^"
    if "*" in inside or "/" in inside:
        return "pattern"
    if pattern.startswith("||"):
        return "||name^" if ends else "||name without ^"
    if pattern.startswith("|"):
        return "|name^" if ends else "pattern"
    return "name^" if pattern == f"{inside}^" else "pattern"


def _dnsmasq_form(body: str) -> str:
    if BOGUS.fullmatch(body):
        return "dnsmasq bogus-nxdomain"
    match = RULE.fullmatch(body)
    if match is None:
        return OTHER
    _, *domains, answer = match[2].split("/")
    if domains and domains[0].startswith("*"):
        return "dnsmasq pattern"
    if match[1].lower() != "address":
        return f"dnsmasq server=/name/{'ADDRESS' if answer.strip() else ' or local=/name/'}"
    answer = answer.strip()
    if answer in ("", "#", "0.0.0.0"):
        return f"dnsmasq address=/name/{answer}"
    return "dnsmasq address=/name/ADDRESS"


def _unbound_form(body: str) -> str:
    if not body or body[0] in "#!;":
        return COMMENT
    match = SETTING.fullmatch(body)
    setting = match[1].lower() if match else ""
    if setting == "local-data":
        return "unbound local-data"
    if setting != "local-zone":
        return OTHER
    kind = body.partition("#")[0].split()[-1].lower()
    kind = _ZONES.get(kind, kind)
    key = f"unbound {'always_nxdomain or static' if kind == 'always_nxdomain' else kind}"
    return key if key in FORMS else OTHER


def _rpz_form(text: str) -> str:
    body = text.partition(";")[0].rstrip()
    if not body:
        return COMMENT
    owner = body.split(maxsplit=1)[0]
    if body[0] in "$@" or body[0].isspace() or re.search(r"\s(?:SOA|NS)\s", body, re.IGNORECASE):
        return OTHER
    if _RPZ_TRIGGER.search(owner):
        return "rpz other trigger"
    return "rpz wildcard" if owner.startswith("*.") else "rpz name"
