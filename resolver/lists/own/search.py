"""SafeSearch: the names of search engines as aliases of those under which they filter their results.

Google: one for each country, www.google.TLD (https://support.google.com/websearch/answer/186669, its list of domains in
google.txt). YouTube: strict or moderate (https://support.google.com/a/answer/6214622). Bing:
https://support.microsoft.com/topic/946059ed-992b-46a0-944a-28e8fb8f1814. DuckDuckGo:
https://duckduckgo.com/duckduckgo-help-pages/features/safe-search. The alias is the answer to every type, so HTTPS records
of the engine itself are no way around.
"""

from __future__ import annotations

from importlib.resources import files

from resolver.lists.own.rules import OwnRule
from resolver.lists.rules import Outcome
from resolver.vocabulary import Action, Scope

TTL = 300  # seconds
_YOUTUBE = (
    "www.youtube.com",
    "m.youtube.com",
    "youtubei.googleapis.com",
    "youtube.googleapis.com",
    "www.youtube-nocookie.com",
)
_TABLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "google": ("forcesafesearch.google.com", ()),
    "youtube": ("restrict.youtube.com", _YOUTUBE),
    "youtube-moderate": ("restrictmoderate.youtube.com", _YOUTUBE),
    "bing": ("strict.bing.com", ("www.bing.com", "edgeservices.bing.com")),
    "duckduckgo": ("safe.duckduckgo.com", ("duckduckgo.com", "www.duckduckgo.com", "start.duckduckgo.com")),
}
SERVICES = tuple(_TABLE)  # config.types.SAFE_SEARCH


def search_rules(service: str) -> list[OwnRule]:
    """The rules for one engine."""
    target, names = _TABLE[service]
    if service == "google":
        domains = files(__package__).joinpath("google.txt").read_text().splitlines()
        names = tuple(f"www.{domain}" for domain in domains if domain and not domain.startswith("#"))
    outcome = Outcome(action=Action.CNAME, ttl=TTL, data=(target,))
    return [OwnRule(name, Scope.SELF, outcome, f"SafeSearch of {service}") for name in names]
