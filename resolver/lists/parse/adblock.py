"""Adblock syntax, as far as it speaks of names: `||name^` and its exception `@@||name^`, patterns (lists/patterns.py),
and the modifiers of AdGuard Home (modifiers.py). Such lists may also hold hosts lines and bare names.

Whatever else the syntax knows is refused with its own reason and never taken for a block: a rule with a page-level
modifier says nothing about DNS, however much its first part looks like a name.

A rule with `$denyallow` is taken back by rules of its own at the names that it leaves out, so that nothing has to be
worked out when a name is asked for. Hosts and plain lines are marked `plain` (lists/conditions.py): no badfilter is meant
for them, and the rules go before them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from resolver.lists.names import normalise
from resolver.lists.parse.addresses import is_special, prefix_of
from resolver.lists.parse.base import (
    ALLOW,
    BLOCK,
    PLAIN,
    Dialect,
    Emit,
    ListReport,
    Options,
    is_address,
    is_network,
    without_comment,
)
from resolver.lists.parse.domains import Domains
from resolver.lists.parse.hosts import Hosts
from resolver.lists.parse.modifiers import NO_MODIFIERS, Modifiers, read_modifiers, split_rule
from resolver.lists.patterns import canonical
from resolver.lists.rules import BadLine, Outcome, Template, TriggerKind, Unsupported
from resolver.vocabulary import Scope, Verb

_IMPORTANT = {
    False: Outcome(verb=Verb.BLOCK, important=True),
    True: Outcome(verb=Verb.ALLOW, important=True),
}
_NAMES = re.compile(r"(\|\||\|)(\*\.)?([^/^*|:?=\s]+)(\^\|?|\|)")
_BELOW = re.compile(r"\*?\.([^/^*|:?=\s]+)(\^\|?|\|)")
_EVERY = re.compile(r"(?:\|\|)?\*?\^?")
_COSMETIC = re.compile(r"[^\s#]*#@?(?:\$\??|%|\?)?##?[^\s#]|[^\s$]*\$@?\$[^\s$]")

_MAX_RULE = 4096  # characters; longer than any real rule, short enough for every expression here


class Adblock(Dialect):
    """Adblock rules over names."""

    name = "adblock"

    def __init__(self, options: Options, report: ListReport, emit: Emit) -> None:
        super().__init__(options, report, emit)
        self._hosts = Hosts(options, report, emit, PLAIN)
        self._domains = Domains(options, report, emit, PLAIN)
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
        verb = Verb.ALLOW if body.startswith("@@") else Verb.BLOCK
        pattern, text = split_rule(body.removeprefix("@@"))
        modifiers = read_modifiers(text, verb) if text else NO_MODIFIERS
        condition = modifiers.condition
        if self.options.kind == "allow" and condition.rewrite is not None and verb is Verb.BLOCK:
            raise Unsupported("a rewrite in a list of what is allowed")
        outcome = _outcome(verb, modifiers)
        if (address := pattern.removeprefix("||").removesuffix("^")) and is_network(address):
            self._address(line, address, modifiers, outcome)
        elif match := _NAMES.fullmatch(pattern):
            start, wildcard, name, _ = match.groups()
            scope = Scope.BELOW if wildcard else Scope.BOTH if start == "||" else Scope.SELF
            self._name(line, normalise(name, allow_tld=not wildcard), scope, modifiers, outcome)
        elif match := _BELOW.fullmatch(pattern):
            self._name(line, normalise(match[1]), Scope.BELOW, modifiers, outcome)
        elif _EVERY.fullmatch(pattern):
            if not (condition.restricts or condition.denied):
                raise BadLine("a rule for every name")
            self._name(line, "", Scope.BOTH, modifiers, outcome)
        else:
            self.emit_trigger(TriggerKind.PATTERN, canonical(pattern), outcome, line)

    def _name(self, line: int, name: str, scope: Scope, modifiers: Modifiers, outcome: Outcome) -> None:
        self.emit(name, scope, outcome, line)
        if modifiers.condition.is_badfilter:
            self.report.badfilters.append(name)
        elif modifiers.condition.denied:
            denial = replace(outcome, condition=str(replace(modifiers.condition, is_denial=True)))
            for denied in modifiers.condition.denied:
                if not name or denied == name or denied.endswith(f".{name}"):
                    self.emit(denied, Scope.BOTH, denial, line)
                elif name.endswith(f".{denied}"):  # the rule can never hold
                    self.emit(name, Scope.BOTH, denial, line)

    def _address(self, line: int, address: str, modifiers: Modifiers, outcome: Outcome) -> None:
        if modifiers.condition.denied:
            raise Unsupported("a rule with $denyallow never matches addresses")
        if outcome.condition:
            raise Unsupported("a rule for addresses in answers takes no modifier but $important")
        prefix = prefix_of(address)
        self.report.special += is_special(prefix)
        self.emit_trigger(TriggerKind.ADDRESS, prefix, outcome, line)


def _outcome(verb: Verb, modifiers: Modifiers) -> Outcome:
    """What a rule says; the few that nearly all rules say are one object each."""
    if modifiers is NO_MODIFIERS:
        return ALLOW if verb is Verb.ALLOW else BLOCK
    return modifiers.outcome(verb)


def is_cosmetic(text: str) -> bool:
    """Whether a line is a rule about the look of pages."""
    return _COSMETIC.match(text.strip()) is not None


def is_rule(body: str) -> bool:
    """Whether a line has anything of adblock syntax about it."""
    return body.startswith(("|", "@@")) or "^" in body or "$" in body or "/" in body or "*" in body[1:]
