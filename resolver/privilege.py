"""From root to the config's `user`, once every socket is bound.

What stays is CAP_NET_BIND_SERVICE in the supervisor alone, so that a later change of addresses can bind a port below
1024. Builds, and workers that are started by exec, lose it thereby, since a capability that is not inheritable does not
survive exec (capabilities(7)); forked workers give it up themselves. Python has no call for capabilities: these are the
only two made by hand.
"""

from __future__ import annotations

import ctypes
import os
import pwd
from pathlib import Path

_PR_SET_KEEPCAPS = 8  # linux/prctl.h
_CAP_NET_BIND_SERVICE = 10  # linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522


class PrivilegeError(Exception):
    """The user cannot be taken on; the text says why."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """32 capabilities; the kernel wants two of these."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_to(name: str, state_dir: Path) -> None:
    """Become user `name` with its groups, and give it what is in `state_dir`. Only root can."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise PrivilegeError(f"user: there is no user {name!r} on this machine") from None
    if os.geteuid() == user.pw_uid:
        return
    if os.geteuid() != 0:
        raise PrivilegeError(f"user: only root can become {name!r}; start as root, or leave 'user' empty")
    for path in (state_dir, *state_dir.rglob("*")):
        if path.stat(follow_symlinks=False).st_uid != user.pw_uid:
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    libc = ctypes.CDLL(None, use_errno=True)
    keeps = libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0
    os.setgroups(os.getgrouplist(name, user.pw_gid))
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    # A container may not have the capability to keep: then none is kept.
    if not keeps or not _hold(libc, 1 << _CAP_NET_BIND_SERVICE):
        _hold(libc, 0)


def drop_capabilities() -> None:
    """Keep none of what drop_to() kept."""
    _hold(ctypes.CDLL(None, use_errno=True), 0)


def _hold(libc: ctypes.CDLL, capabilities: int) -> bool:
    """Hold these capabilities (of the first 32) and no others; False if that is not allowed."""
    header = _Header(_CAPABILITY_VERSION_3, 0)
    sets = (_Sets * 2)(_Sets(capabilities, capabilities, 0), _Sets(0, 0, 0))
    return bool(libc.capset(ctypes.byref(header), sets) == 0)
