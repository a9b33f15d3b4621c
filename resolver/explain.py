"""What `tampah explain` and `tampah lists` say: the generation in force, read from state_dir.

Nothing here works out a verdict of its own: which rules cover a name is read from the lists' runs, what is decided from
the same index and policy files that the workers have, and the answer is made by an engine of its own that is asked the
question. So it says the same whether the server runs or not.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from resolver import counters, overlay, snapshot
from resolver.config.addresses import as_address
from resolver.config.model import Config, ListConfig
from resolver.decide import Decisions
from resolver.engine.engine import (
    DROP,
    PUNT,
    PUNT_CONDITIONAL,
    PUNT_DNS64,
    PUNT_FORWARD,
    PUNT_LOCAL,
    PUNT_PATTERN,
    PUNT_SERVERS,
    REPLY,
    Engine,
    Index,
    Punt,
    Snapshot,
    SuffixTable,
)
from resolver.fetch.store import Place
from resolver.leads import NOBODYS_NAME, Leads, as_name, ask, leads_of
from resolver.lists import history
from resolver.lists.explain import (
    Match,
    TriggerMatch,
    covers_address,
    covers_name,
    covers_pattern,
    matches,
    trigger_matches,
)
from resolver.lists.matrix import OVERLAY_PROFILE
from resolver.lists.own import LOCAL, PREFIX, own_lists
from resolver.lists.report import ListReport, Report, duration
from resolver.lists.rules import Outcome, TriggerKind
from resolver.lists.runs import Run
from resolver.lists.source import SourceStat, lines_at, stat_of
from resolver.local import Aliases
from resolver.membership import membership_now
from resolver.metrics import action_name
from resolver.snapshot import CELL, Generation
from resolver.vocabulary import Action, Rank, Scope, Transport, Verb

_SCOPES = {Scope.SELF: "itself", Scope.BELOW: "what is below it", Scope.BOTH: "itself and what is below it"}
_FOUND_NAME = 1  # FindingKind in engine/query.pxd
_FINDINGS = {TriggerKind.CLIENT: 0, TriggerKind.ADDRESS: 2, TriggerKind.NSDNAME: 3, TriggerKind.NSIP: 4}
_EXPLAINED_CACHE = 1 << 20  # octets: the engine wants one, nothing is kept in it


@dataclass(frozen=True, slots=True)
class Spoken:
    """One rule that speaks: where it stands, what it is about, whom it covers, and what it says. `trigger`: its kind;
    `by`: the alias, target or address in the answer that it was found by, or the client or name server, "" for the name
    itself; `text`: its line, "" if the file is another now; `since`: since which generation; `quarantined`: why it is left
    out of what is served, "" if it is not."""

    list: str
    file: str
    line: int
    name: str
    covers: str
    says: str
    wins: bool
    trigger: str = "name"
    by: str = ""
    text: str = ""
    since: str = ""
    quarantined: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happens to a question and why. `group` "" : no group has the client, so every list applies; `entry`: which of
    the group's client entries matched; `notes`: what schedules and pauses have to do with it."""

    name: str
    type: str
    client: str
    generation: int
    group: str
    entry: str
    notes: tuple[str, ...]
    policy_class: int
    listset: int
    action: str
    rank: str
    list: str
    category: str
    matches: tuple[Spoken, ...]
    answer: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    def lines(self) -> Iterator[str]:
        """For a person."""
        where = f"group {self.group} by {self.entry}" if self.group else "no group: every list applies"
        yield f"{self.name} {self.type} asked by {self.client} ({where}), generation {self.generation}"
        for note in self.notes:
            yield f"  {note}"
        for match in self.matches:
            line = f":{match.line}" if match.line else ""
            place = f"{match.file}{line}" if match.file else f"line {match.line}"
            verb = "is silenced" if match.quarantined else "decides" if match.wins else "speaks"
            line = f"  {match.list} {verb}: {place}: {match.name or 'every name'}, {match.covers}"
            if match.by and match.trigger in ("name", "pattern"):
                line += f", by {match.by} in the answer"
            line += f": {match.says}"
            if match.text:
                line += f"; it reads {match.text}"
            if match.since:
                line += f"; {match.since}"
            yield f"{line}; quarantined: {match.quarantined}" if match.quarantined else line
        if not self.matches:
            yield "  no list speaks of it"
        by = f" by list {self.list}" if self.list else ""
        category = f", category {self.category}" if self.category else ""
        where = f"rank {self.rank}, class {self.policy_class}, listset {self.listset}"
        yield f"  action: {self.action}{by}{category} ({where})"
        yield "  answer:"
        for line in self.answer:
            yield f"    {line}"


def generation_of(state_dir: Path) -> Generation:
    """The generation in force, or where no server ran yet the newest one. ValueError if there is none."""
    generation = snapshot.last_good(state_dir)
    if generation is None:
        built = (found for found in snapshot.generations(state_dir) if found.is_complete(state_dir))
        generation = next(built, None)
    if generation is None:
        raise ValueError(f"{state_dir}: no generation there yet; 'tampah run' or 'tampah compile' makes one")
    return generation


def explain_name(
    config: Config,
    name: str,
    client: str,
    qtype: str,
    leads_to: Sequence[str] = (),
    servers: Sequence[str] = (),
    *,
    asks: bool = False,
) -> Explanation:
    """Explain a question, or what an address means in an answer. ValueError says what of name, client or type is none.

    `leads_to`: what the upstream is taken to say, aliases in their order and then addresses. An address for a name is the
    answer of a name that no list speaks of. `servers`: what the name's servers are taken to be, names and addresses.
    `asks`: the upstream itself is asked what it says; ValueError if nobody answers.
    """
    shown = ""
    if asks and (leads_to or servers or as_address(name)):
        raise ValueError("upstream is asked about a name, and then says itself what the answer is")
    if (wanted := as_address(name)) is not None:
        shown, leads_to, qtype = str(wanted), [name], "AAAA" if wanted.version == 6 else "A"
        name = NOBODYS_NAME
    asked = as_name(name)
    address = ipaddress.ip_address(client)
    octets = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
    rtype = _type(qtype)
    state_dir = config.state_path
    generation = generation_of(state_dir)
    index = Index(generation.index_path(state_dir))
    policy = snapshot.read_policy(generation.policy_path(state_dir))
    members, moment, pauses = membership_now(config, state_dir)
    policy = replace(policy, clients=members.make(policy, moment))
    found = members.find(client, moment, pauses, time.time())
    decided = Snapshot(index, policy, generation.number)
    decisions = Decisions(index, policy, generation.number)
    policy_class, listset, _, cell = decided.decide(asked, octets)
    entries = overlay.read(state_dir)
    categories = [(each.name, each.category) for each in config.lists]
    categories += [(each.name, each.category) for each in own_lists(config)]
    leads, told = Leads(tuple(leads_to), tuple(servers)), None
    if asks:
        own = next((group.upstream for group in config.groups if group.name == found.group), ())
        told = ask(config, asked, rtype, own)
        leads = leads_of(told)
    said, last = _answer(decided, index, policy, decisions, entries, asked, rtype, octets, leads, told)
    finding = last[1]
    if any(leads):
        listset, finding, _, cell = last
    elif policy_class != snapshot.REFUSED_CLASS:
        fitting = decisions.fits(dns.name.from_text(f"{asked}.").canonicalize().to_wire() or b"")
        winners, listset = decisions.best(policy_class, (listset, *fitting), rtype, octets)
        cell = winners[0].cell
    rank, action, _, _, slot, _ = CELL.unpack(cell)
    refused = policy_class in (snapshot.REFUSED_CLASS, snapshot.WITHHELD_CLASS)
    states = (*generation.lists, *generation.own)
    winner = "" if refused else next((state.name for state in states if state.slot == slot), "")
    paths = [(state.name, state_dir / "runs" / state.run) for state in states if state.run]
    if slot == counters.REBINDING_SLOT and not refused:
        winner = "rebinding"
    words = overlay.covering(entries, asked)
    if words and not refused and not any(leads) and not (rank == Rank.OVERLAY and words[0].word == overlay.ALLOW):
        rank, action, winner = Rank.OVERLAY, Action.ALLOW, ""
        if words[0].word == overlay.BLOCK:
            action = Action(policy.profiles[OVERLAY_PROFILE].action)
    spoken = tuple(_by_hand(entry, state_dir, wins=at == 0) for at, entry in enumerate(words))
    by_name = winner if finding == _FOUND_NAME else ""
    since, texts = Stands(state_dir, generation.number), Texts(states)
    runs = dict(paths)
    leading = [(as_address(step), step) for step in leads.steps]
    for step in dict.fromkeys((asked, *(as_name(step) for at, step in leading if at is None))):
        by = "" if step == asked else step
        for match in _covering(paths, step):
            spoken += (_spoken(match, runs[match.list], by_name, action, since, texts, by),)
        for each in trigger_matches(paths, frozenset({TriggerKind.PATTERN}), covers_pattern(step)):
            pattern = _spoken(_as_match(each), runs[each.list], by_name, action, None, texts, by)
            spoken += (replace(pattern, covers="names that fit it", trigger="pattern", since=since.since(each)),)
    speaking: list[tuple[TriggerKind, str, str, Callable[[str], bool]]] = [
        (TriggerKind.CLIENT, f"the client {address}", str(address), covers_address(address)),
        *(
            (TriggerKind.ADDRESS, f"answers with {at}", step, covers_address(at))
            for at, step in leading
            if at is not None
        ),
    ]
    for server in leads.servers:
        if (at := as_address(server)) is not None:
            speaking.append((TriggerKind.NSIP, f"name servers at {at}", server, covers_address(at)))
        else:
            speaking.append(
                (TriggerKind.NSDNAME, f"name server {as_name(server)}", server, covers_name(as_name(server)))
            )
    for kind, about, by, covers in speaking:
        found_by = winner if finding == _FINDINGS[kind] else ""
        for each in trigger_matches(paths, frozenset({kind}), covers):
            said_of = _triggered(each, about, runs[each.list], found_by, action, since, texts)
            spoken += (replace(said_of, by=by, trigger=kind.word),)
    return Explanation(
        name=shown or asked or ".",
        type=dns.rdatatype.to_text(rtype),
        client=str(address),
        generation=generation.number,
        group=found.group,
        entry=found.entry,
        notes=found.notes,
        policy_class=policy_class,
        listset=listset,
        action="refused" if refused else action_name(action),
        rank="allow_from" if refused else Rank(rank).name.lower().replace("_", "-"),
        list="overlay" if rank == Rank.OVERLAY and not refused and not winner else winner,
        category=next((category for name, category in categories if name == winner), ""),
        matches=spoken,
        answer=said,
    )


def _type(text: str) -> dns.rdatatype.RdataType:
    try:
        return dns.rdatatype.from_text(text)
    except Exception:
        raise ValueError(f"{text!r} is no record type") from None


def _by_hand(entry: overlay.Entry, state_dir: Path, *, wins: bool) -> Spoken:
    """An operator's word, which outranks every list."""
    word, made, until = overlay.said(entry)
    says = f"{word}, since {made}" + (f", until {until}" if until else "")
    path = str(state_dir / overlay.FILE)
    return Spoken("overlay", path, 0, entry.name, _SCOPES[Scope.BOTH], says, wins)


class Stands:
    """Since when rules stand, in words; the history is read once."""

    def __init__(self, state_dir: Path, generation: int) -> None:
        self._state_dir = state_dir
        self._generation = generation
        self._known = history.generations_known(state_dir)

    def since(self, match: Match | TriggerMatch) -> str:
        """For a rule that is served; "" if nothing is known."""
        rule = match.trigger if isinstance(match, TriggerMatch) else (match.name, match.scope, match.outcome)
        found = history.since(self._state_dir, self._generation, match.list, rule, self._known)
        if found is None:
            return ""
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.time))
        return f"since generation {found.generation}{'' if found.exact else ' or longer'} ({made})"


class Texts:
    """The lines of lists as they were read, from files that are still the ones that were read then."""

    def __init__(self, states: Sequence[snapshot.ListState]) -> None:
        self._states = {state.name: state for state in states}

    def text(self, name: str, file: str, line: int) -> str:
        """A line of a list by what its file is called; "" if it cannot be had."""
        state = self._states[name]
        if not line or state.pending:  # its source holds what is not served
            return ""
        is_remote = "://" in file
        for place in state.source:
            if is_remote or place[0] == file:
                try:
                    is_the_same = stat_of(Path(place[0])) == SourceStat(*place)
                except OSError:
                    return ""
                return lines_at(Path(place[0]), {line}).get(line, "") if is_the_same else ""
        return ""


def _as_match(found: TriggerMatch) -> Match:
    """A pattern as a rule that covers the name, which stands where the pattern's text does."""
    trigger = found.trigger
    return Match(found.list, trigger.line, trigger.text, Scope.SELF, trigger.outcome)


def _covering(paths: Sequence[tuple[str, Path]], name: str) -> list[Match]:
    """The rules that cover a name; of local names and special names the one that is nearest, which alone counts."""
    found = matches(paths, name)
    last = {match.list: match for match in found}
    return [match for match in found if match.list != LOCAL or match is last[LOCAL]]


def _spoken(
    match: Match, run_path: Path, winner: str, action: int, stands: Stands | None, texts: Texts, by: str
) -> Spoken:
    file, line = _place(run_path, match.line)
    text = texts.text(match.list, file, line)
    if file and not line and not match.list.startswith(PREFIX):
        file = f"*.{match.name}.{file}" if match.scope is Scope.BELOW else f"{match.name}.{file}"
    decides = match.list == winner and (match.outcome.verb is Verb.ALLOW) == (action == Action.ALLOW)
    return Spoken(
        match.list,
        file,
        line,
        match.name,
        _SCOPES[match.scope],
        _says(match.outcome),
        decides and not match.left_out,
        by=by,
        text=text,
        since=stands.since(match) if stands and not match.left_out else "",
        quarantined=match.left_out,
    )


def _triggered(
    match: TriggerMatch, covers: str, run_path: Path, winner: str, action: int, stands: Stands, texts: Texts
) -> Spoken:
    """A rule about an address, of the client or in the answer, or about a name server."""
    _, about, outcome, line = match.trigger
    file, line = _place(run_path, line)
    decides = match.list == winner and (outcome.verb is Verb.ALLOW) == (action == Action.ALLOW)
    return Spoken(
        match.list,
        file,
        line,
        about,
        covers,
        _says(outcome),
        decides and not match.left_out,
        text=texts.text(match.list, file, line),
        since="" if match.left_out else stands.since(match),
        quarantined=match.left_out,
    )


def _place(run_path: Path, line: int) -> tuple[str, int]:
    """The file that a line of a list is in, and its number there."""
    with Run(run_path) as run:
        files = run.header.report.get("files", ())
        zone = str(run.header.source.get("zone", ""))
        places = run.header.report.get("places", ())
    if places:  # a list of our own: each rule says where it comes from
        return (str(places[line - 1]) if line <= len(places) else ""), 0
    if zone:  # a transfer has no lines: the owner of the record names it
        return zone, 0
    file, first = next(((part[0], part[1]) for part in reversed(files) if line >= part[1]), ("", 1))
    return str(file), line - first + 1


def _says(outcome: Outcome) -> str:
    says = outcome.verb.name.lower()
    if outcome.important:
        says += ", important"
    if outcome.action is not None:
        says += f" by {action_name(outcome.action)}"
    if outcome.condition:
        says += f" ({outcome.condition})"
    if outcome.data:
        says += f" {'; '.join(outcome.data)}"
    return says


def _answer(
    decided: Snapshot,
    index: Index,
    policy: snapshot.Policy,
    decisions: Decisions,
    entries: Sequence[overlay.Entry],
    name: str,
    rtype: dns.rdatatype.RdataType,
    client: bytes,
    leads: Leads,
    told: dns.message.Message | None,
) -> tuple[tuple[str, ...], tuple[int, int, int, bytes]]:
    """What an engine of its own says to the question, and what it decided by (Engine.decided).

    `told`: what upstream said; else it is taken to say what `leads` has, if that is anything.
    """
    engine = Engine(counters=memoryview(bytearray(counters.SIZE)), cache_bytes=_EXPLAINED_CACHE)
    engine.swap(decided)
    engine.set_overlay(SuffixTable(overlay.words(entries, time.time())))
    query = dns.message.make_query(f"{name}.", rtype, use_edns=0)
    verdict, reply = engine.answer(query.to_wire(), client, Transport.UDP)
    verdict, reply, punts = _decided(engine, decisions, decided.number, verdict, reply)
    told = told or (leads.message(query) if any(leads) else None)
    if not (verdict == PUNT and punts[0].reason == PUNT_FORWARD):
        return tuple(_shown(verdict, reply, punts, name, Aliases(index, policy))), engine.decided
    if told is not None:
        told.id = query.id
        verdict, reply = engine.finish(punts[0], told.to_wire(max_size=65535))
        verdict, reply, punts = _decided(engine, decisions, decided.number, verdict, reply)
        return tuple(_shown(verdict, reply, punts, name, Aliases(index, policy))), engine.decided
    lines, last = [*_shown(verdict, reply, punts, name, Aliases(index, policy))], engine.decided
    # A rule for the name may have to wait for the answer, as a list that outranks it looks at answers.
    verdict, reply = engine.finish(punts[0], Leads().message(query).to_wire())
    verdict, reply, punts = _decided(engine, decisions, decided.number, verdict, reply)
    if CELL.unpack(engine.decided[3])[1] not in (Action.FORWARD, Action.ALLOW):
        lines += ["unless a list that outranks this finds something there:"]
        lines += _shown(verdict, reply, punts, name, Aliases(index, policy))
    return tuple(lines), last


def _decided(
    engine: Engine, decisions: Decisions, generation: int, verdict: int, reply: bytes | None
) -> tuple[int, bytes | None, list[Punt]]:
    """What comes of a verdict once Python has decided what the engine left to it."""
    punts = engine.take_punts()
    while verdict == PUNT and punts[0].reason in (PUNT_CONDITIONAL, PUNT_PATTERN, PUNT_SERVERS):
        if punts[0].reason == PUNT_SERVERS:  # the answer carries those that are to be explained
            for each in punts[0].names:
                engine.remember_servers(each, (), (), 60, generation)
            verdict, reply = engine.resume(punts[0])
        elif punts[0].reason == PUNT_PATTERN:
            for each in punts[0].names:
                engine.remember(each, decisions.fits(each), generation)
            verdict, reply = engine.resume(punts[0])
        elif isinstance(choice := decisions.decide(punts[0]), bytes):
            verdict, reply = REPLY, choice
        else:
            verdict, reply = engine.decide(punts[0], *(choice or (None, 0)))
        punts = engine.take_punts()
    return verdict, reply, punts


def _shown(verdict: int, reply: bytes | None, punts: Sequence[Punt], name: str, aliases: Aliases) -> Iterator[str]:
    """The answer's records, or where the engine would ask."""
    if verdict == REPLY and reply is not None:
        message = dns.message.from_wire(reply)
        yield f"rcode {dns.rcode.to_text(message.rcode())}"
        for option in message.options:
            yield option.to_text()
        for section in (message.answer, message.authority, message.additional):
            for rrset in section:
                yield from rrset.to_text().splitlines()
    elif verdict == DROP:
        yield "none: the query is dropped"
    else:
        for punt in punts:
            if punt.reason == PUNT_LOCAL:
                alias = aliases.describe(punt)
                if isinstance(alias, bytes):
                    yield f"rcode {dns.rcode.to_text(dns.message.from_wire(alias).rcode())}"
                else:
                    target = dns.name.from_wire(alias.target, 0)[0]
                    yield f"{name}. {alias.ttl} IN CNAME {target} and what that resolves to"
            elif punt.reason == PUNT_DNS64:
                yield "AAAA records made from its A records (dns64), if it has any"
            else:
                along = f" along route {punt.route}" if punt.route else ""
                yield f"asked upstream{along}, or from the cache (--ask tells what becomes of that answer)"


@dataclass(frozen=True, slots=True)
class ListView:
    """A list's state for `tampah lists`. None: not known; `hits` and `shadow` only where a server runs: queries that
    it decided, and that it would have decided where it only counts.

    `age`: how long ago the source was last found good; for a list from another machine, how long ago that one last said
    what its list is. `next`: in how long it is asked again, `failures`: how often in a row that came to nothing. `guard`:
    what the guard holds back, and what to do, for a person.
    """

    list: str
    state: str
    names: int | None
    refused: int | None
    format: str
    age: str
    hits: int | None
    shadow: int | None
    error: str
    source: str = ""
    next: str = ""
    failures: int = 0
    zone: str = ""
    quarantined: int = 0
    pending_names: int | None = None
    guard: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)


def list_states(config: Config, server: Mapping[str, Any] | None) -> list[ListView]:
    """The state of every list of the config, with the hits of the server that runs, if one does."""
    generation = generation_of(config.state_path)
    reports = {report.name: report for report in Report.from_json(generation.report).lists}
    states = {state.name: state for state in generation.lists}
    hits = server["hits"] if server else None
    found: list[ListView] = []
    for listed in config.lists:
        state, report = states.get(listed.name), reports.get(listed.name)
        if listed.enabled == "no" or state is None or report is None:
            word = "off" if listed.enabled == "no" else "new"
            view = ListView(listed.name, word, None, None, "", "", None, None, "", listed.shown)
        else:
            view = ListView(
                list=listed.name,
                state="shadow" if listed.enabled == "shadow" else str(report.outcome),
                names=state.names,
                refused=report.refused,
                format=report.format,
                age=duration(max(0.0, time.time() - state.seen)),
                hits=hits.get(listed.name, 0) if hits is not None else None,
                shadow=server["shadow_hits"].get(listed.name, 0) if server is not None else None,
                error=report.error,
                source=listed.shown,
                zone=_zone_of(listed, config.state_path),
                quarantined=state.quarantined,
                pending_names=report.pending_names if state.pending else None,
                guard=tuple(_guarded(state, report)),
            )
        if listed.is_remote and listed.enabled != "no":
            view = _with_source(view, listed, config.state_path)
        found.append(view)
    return found


def _guarded(state: snapshot.ListState, report: ListReport) -> Iterator[str]:
    """What of a list is not served, and what to do."""
    if state.held:
        yield f"{state.held}: {report.guard}"
    if state.quarantined:
        yield f"quarantined rules, which would block protected names: {state.quarantined:,}"
        yield from (f"  {rule}" for rule in report.quarantined_rules)
    if report.advice:
        yield report.advice


def _zone_of(listed: ListConfig, state_dir: Path) -> str:
    """How the copy of a zone stands: serial, how and from where it came, and when it expires."""
    if listed.scheme != "axfr":
        return ""
    from resolver.transfer.zone import ZonePlace

    record, now = ZonePlace(state_dir, listed.name).read(), time.time()
    if record is None:
        return "no copy yet"
    ends = "expired" if record.expired else f"expires in {duration(max(0.0, record.expires - now))}"
    return f"serial {record.soa.serial} by {record.kind} from {record.primary}, {ends}"


def _with_source(view: ListView, listed: ListConfig, state_dir: Path) -> ListView:
    """The same with what is known of the machine that the list comes from."""
    place = Place(state_dir, listed.name)
    meta, state, now = place.meta(), place.state(listed.source), time.time()
    waits = meta is None or meta.source != listed.source
    return dataclasses.replace(
        view,
        state="waiting" if waits and not view.names else view.state,
        age=duration(max(0.0, now - state.checked)) if state.checked else "",
        next=duration(max(0.0, state.next_try - now)) if state.next_try else "",
        failures=state.failures,
        error=state.error or view.error,
    )
