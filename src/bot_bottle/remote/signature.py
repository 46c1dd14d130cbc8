"""Signatures by SSH keys, as git makes them: `ssh-keygen -Y sign`, with a namespace of our own.

Source: ssh-keygen(1), "-Y sign", "-Y find-principals", "-Y verify", "ALLOWED SIGNERS".
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bot_bottle.errors import CommandError, SpecError, UntrustedError
from bot_bottle.host import process
from bot_bottle.host.text import printable

NAMESPACE = "bot-bottle-artifact"
LIMIT = 1 << 16  # bytes of a signature

_SECONDS = 60.0  # a key may be in an agent that asks the user


def require_key(key: Path) -> None:
    """Check that a key is there, before much is done that it is to sign. Raises SpecError."""
    if not key.is_file():
        raise SpecError(
            f"there is no SSH key {key}", next_step="name its file, for example ~/.ssh/id_ed25519"
        )


def sign(data: bytes, key: Path) -> bytes:
    """Return a signature of `data` by a private key, or by the agent's key of a public one.

    Raises SpecError.
    """
    require_key(key)
    with tempfile.TemporaryDirectory(prefix="bottle-") as folder:
        signed = Path(folder, "receipt")
        signed.write_bytes(data)
        argv = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(signed)]
        try:
            process.run(argv, timeout=_SECONDS)
            return signed.with_name("receipt.sig").read_bytes()
        except (CommandError, OSError) as error:
            raise SpecError(
                f"cannot sign with {key}",
                why=error.why if isinstance(error, CommandError) else str(error),
                next_step="a key with a passphrase has to be in ssh-agent (ssh-add); name its .pub file then",
            ) from error


def find_signer(data: bytes, signature: bytes, trusted: Path) -> str:
    """Return the name of the signer of `data` in the file `trusted`. Raises UntrustedError if it has none."""
    if not trusted.is_file():
        raise UntrustedError(
            f"there is no file of trusted signers: {trusted}",
            next_step="write it in the form of ssh-keygen(1), ALLOWED SIGNERS, or correct cache.trust",
        )
    with tempfile.TemporaryDirectory(prefix="bottle-") as folder:
        place = Path(folder, "signature")
        place.write_bytes(signature)
        start = ["ssh-keygen", "-q", "-Y"]
        common = ["-f", str(trusted), "-s", str(place)]
        try:
            found = process.run([*start, "find-principals", *common], timeout=_SECONDS, check=False)
            names = found.text.splitlines()
            if found.code or not names:
                raise _untrusted("no trusted key has signed it", found)
            signer = names[0].split(",")[0]  # of the names of one key
            verify = [*start, "verify", "-I", signer, "-n", NAMESPACE, *common]
            done = process.run(verify, timeout=_SECONDS, check=False, input=data)
        except CommandError as error:
            raise UntrustedError(
                "signatures cannot be checked",
                why=error.message,
                next_step="install ssh-keygen (Debian: openssh-client)",
            ) from error
        if done.code:
            raise _untrusted("its signature is not valid", done)
        return signer


def _untrusted(why: str, done: process.Completed) -> UntrustedError:
    said = printable(done.complaint.replace("\n", "; "), limit=300)
    return UntrustedError(
        "the artifact is not signed by a trusted key",
        why=f"{why}{f' ({said})' if said else ''}",
        next_step="push it again with --sign, or add the signer's key to the file of cache.trust",
    )
