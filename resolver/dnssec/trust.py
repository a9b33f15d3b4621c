"""What a configuration says that answers are checked by; imports what reads a file of anchors only where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resolver.control import Trust

if TYPE_CHECKING:
    from resolver.config.model import Config

# The root's key signing keys, as IANA publishes them: https://data.iana.org/root-anchors/root-anchors.xml
ROOT = (
    ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D",
    ". IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16",
)


def trust_of(config: Config) -> Trust:
    """The anchors, and the names that are exempt: those of the config, and the zones that have servers of their own.

    ValueError says what is wrong with the file of anchors.
    """
    section = config.dnssec
    if section.mode != "validate":
        return Trust()
    anchors: tuple[str, ...] = ROOT
    if path := section.anchor_path:
        from resolver.dnssec.anchors import read

        try:
            anchors = read(path)
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ValueError(f"dnssec.trust_anchor: {path}: {what}") from None
    routed = [zone for route in config.upstream.routes for zone in route.zones]
    return Trust(anchors, tuple(dict.fromkeys((*section.negative_trust_anchors, *routed))))
