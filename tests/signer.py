"""A maintainer who signs lists with the real minisign."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Signer:
    """A key pair in a folder. `public_key`: as a config has it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._secret, public = folder / "key.sec", folder / "key.pub"
        _minisign("-G", "-W", "-p", str(public), "-s", str(self._secret))
        self.public_key = public.read_text().splitlines()[1]

    def sign(self, body: bytes, *, legacy: bool = False, comment: str = "a list") -> bytes:
        """The signature file of a body."""
        path, signature = self._folder / "body", self._folder / "body.minisig"
        path.write_bytes(body)
        how = ["-l"] if legacy else []
        _minisign("-S", *how, "-s", str(self._secret), "-m", str(path), "-x", str(signature), "-t", comment)
        return signature.read_bytes()


def _minisign(*arguments: str) -> None:
    subprocess.run(["minisign", *arguments], check=True, capture_output=True, timeout=60)
