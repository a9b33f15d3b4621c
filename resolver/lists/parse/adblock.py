"""Adblock syntax, as far as it speaks of names: `||name^` and its exception `@@||name^`, each with or without
`$important`. Such lists may also hold hosts lines and bare names.

Whatever else the syntax knows is refused with its own reason and never taken for a block: a rule with a page-level
modifier says nothing about DNS, however much its first part looks like a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from resolver.lists.names import normalise
from resolver.lists.parse.addresses import is_special, prefix_of
from resolver.lists.parse.base import (
    ALLOW,
    BLOCK,
    Dialect,
    Emit,
    ListReport,
    Options,
    is_address,
    is_network,
    not_built,
    without_comment,
)
from resolver.lists.parse.domains import Domains
from resolver.lists.parse.hosts import Hosts
from resolver.lists.rules import BadLine, Outcome, Template, TriggerKind, Unsupported
from resolver.vocabulary import Scope, Verb

_IMPORTANT = {
    False: Outcome(verb=Verb.BLOCK, important=True),
    True: Outcome(verb=Verb.ALLOW, important=True),
}
_NAMES = re.compile(r"\|\|(\*\.)?([^/^*|:?=\s]+)\^\|?")
_COSMETIC = re.compile(r"[^\s#]*#@?(?:\$\??|%|\?)?##?[^\s#]|[^\s$]*\$@?\$[^\s$]")
_MODIFIERS = re.compile(r"\$(?=[~a-z_])(?P<list>[^/]*|.*=.*)\Z", re.IGNORECASE)

_MAX_RULE = 4096  # characters; longer than any real rule, short enough for every expression here

_NOT_BUILT = frozenset({"client", "ctag", "dnstype", "denyallow", "dnsrewrite", "badfilter"})
_PAGE_LEVEL = re.compile(
    "1p|3p|all|app|cname|content|cookie|csp|css|doc|document|domain|elemhide|empty|extension|first-party|font"
    "|frame|from|genericblock|generichide|header|hls|image|inline-font|inline-script|ipaddress|jsinject|jsonprune"
    "|match-case|media|method|mp4|network|network-error|noop|object|object-subrequest|other|permissions|ping"
    "|popunder|popup|redirect|redirect-rule|referrerpolicy|removeheader|removeparam|replace|rewrite|script"
    "|specifichide|stealth|strict-first-party|strict-third-party|strict1p|strict3p|stylesheet|subdocument"
    "|third-party|to|trusted-types|urlblock|urltransform|webrtc|websocket|xhr|xmlhttprequest|xmlprune"
)


class Adblock(Dialect):
    """Adblock rules over names."""

    name = "adblock"

    def __init__(self, options: Options, report: ListReport, emit: Emit) -> None:
        super().__init__(options, report, emit)
        self._hosts = Hosts(options, report, emit)
        self._domains = Domains(options, report, emit)
        self._templates = (
            Template(b"||", b"^", Scope.BOTH, BLOCK),
            Template(b"@@||", b"^", Scope.BOTH, ALLOW),
            Template(b"||", b"^$important", Scope.BOTH, _IMPORTANT[False]),
            Template(b"@@||", b"^$important", Scope.BOTH, _IMPORTANT[True]),
            Template(b"||*.", b"^", Scope.BELOW, BLOCK),
            self._domains.templates(b"")[0],
        )

    def templates(self, chunk: bytes) -> Sequence[Template]:
        """Every line stands for itself."""
        return self._templates

    def feed(self, line: int, text: str) -> None:
        """Read one line."""
        text = text.strip()
        if len(text) > _MAX_RULE and text[0] not in "#!":
            raise BadLine(f"a rule of {len(text)} characters; at most {_MAX_RULE}")
        if is_cosmetic(text):
            raise Unsupported("a cosmetic rule says nothing about DNS")
        body = without_comment(text)
        if not body:
            self.report.comments += 1
        elif is_rule(body):
            self.take(line, body)
        elif is_address(body.split(maxsplit=1)[0]) and len(body.split(maxsplit=1)) > 1:
            self._hosts.take(line, body)
        else:
            self._domains.take(line, body, Scope.BELOW)

    def take(self, line: int, body: str) -> None:
        """Take a line that `is_rule()` and has no comment."""
        pattern = body.removeprefix("@@")
        is_exception = body.startswith("@@")
        if len(pattern) > 1 and pattern.startswith("/") and re.search(r"/(?:\$[^/]*)?\Z", pattern[1:]):
            raise not_built("a pattern")
        is_important = False
        if modifiers := _MODIFIERS.search(pattern):
            pattern = pattern[: modifiers.start()]
            is_important = _check_modifiers(modifiers["list"])
        outcome = _IMPORTANT[is_exception] if is_important else ALLOW if is_exception else BLOCK
        if (address := pattern.removeprefix("||").removesuffix("^")) and is_network(address):
            prefix = prefix_of(address)
            self.report.special += is_special(prefix)
            self.emit_trigger(TriggerKind.ADDRESS, prefix, outcome, line)
            return
        if not (match := _NAMES.fullmatch(pattern)):
            raise _reason(pattern)
        wildcard, name = match.groups()
        name = normalise(name, allow_tld=not wildcard)
        scope = Scope.BELOW if wildcard else Scope.BOTH
        self.emit(name, scope, outcome, line)


def is_cosmetic(text: str) -> bool:
    """Whether a line is a rule about the look of pages."""
    return _COSMETIC.match(text.strip()) is not None


def is_rule(body: str) -> bool:
    """Whether a line has anything of adblock syntax about it."""
    return body.startswith(("|", "@@")) or "^" in body or "$" in body or "/" in body or "*" in body[1:]


def _check_modifiers(text: str) -> bool:
    """Whether `$important` is given; any other modifier makes the rule one that is not taken."""
    is_important = False
    for modifier in text.split(","):
        word = modifier.strip().partition("=")[0].lower().removeprefix("~")
        if word == "important":
            is_important = True
        elif word in _NOT_BUILT:
            raise not_built(f"${word}")
        elif _PAGE_LEVEL.fullmatch(word):
            raise Unsupported(f"the page-level modifier ${word} says nothing about DNS")
        elif re.fullmatch(r"[a-z0-9_-]+", word):
            raise Unsupported(f"the modifier ${word} is unknown, so the rule is dropped")
        else:
            raise BadLine("what follows the $ is no list of modifiers")
    return is_important


def _reason(pattern: str) -> BadLine:
    """Why a pattern is none that is taken."""
    if re.search(r"[/?]", pattern):
        return Unsupported("a path: it speaks of a page, DNS knows only names")
    if re.search(r"\s", pattern):
        return BadLine("a blank inside the rule")
    if re.fullmatch(r"\|\|[^*^|]+:[0-9]+\^?", pattern):
        return Unsupported("a port: DNS knows only names")
    if re.fullmatch(r"\|\|[^*^|]+", pattern):
        return not_built("a prefix pattern (no ^ at the end)")
    return not_built("a pattern")
