"""What is tried from inside a bottle before its command starts, to prove that its walls are up.

The probes are one script for the shell of a small kit: busybox and its loader, out of smolvm's own guest
system, which a backend shows to the bottle at KIT, read-only. Nothing of the image is needed or trusted: the
loader is named on every command line, so no program or library of the image runs.

All probes run at once; what has not answered when the time is up is silent. What comes back is written by
whoever holds the bottle, so nothing in it counts but known names with known outcomes, once each.
"""

from __future__ import annotations

import re
import secrets
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, get_args

from bot_bottle.errors import WallsError

KIT = "/.bottle"
# the kit's files: the loader by its own name, since no image has it at this place
BUSYBOX = (f"{KIT}/ld.so", "--library-path", KIT, f"{KIT}/busybox")
SHELL = (*BUSYBOX, "sh", "-c")  # and then the script
# the loader obeys these, and an image may set them: a backend sets them empty for the probes
CLEARED: Mapping[str, str] = {"LD_PRELOAD": "", "LD_LIBRARY_PATH": ""}

# before the name of a line of proc_pid_status(5), among what probes found
STATUS = "status."

SECONDS = 0.3  # that a probe is waited for, where processors are real
_PATIENCE = 6.0  # seconds, for one whose silence would be a hole: a busy machine answers late, and is no hole

Protocol = Literal["routes", "tcp", "udp", "icmp", "dns", "dnstcp", "proxy"]
Outcome = Literal["open", "refused", "unreachable", "silent", "error"]

_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_ASKED = re.compile(r"[A-Za-z0-9._:\[\]-]{1,260}")
_MOST_OUTPUT = 1 << 16  # bytes of it that are read

# a wall that drops what it refuses, or that says so
CLOSED: frozenset[Outcome] = frozenset({"refused", "unreachable", "silent"})
ANY: frozenset[Outcome] = frozenset(_OUTCOMES)


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt to get out, and the outcomes that hold with the walls up.

    `ask` is the name that is asked for with `dns` and `dnstcp`, and HOST:PORT with `proxy`. `routes` needs no
    address: it is open when the bottle has any way out of itself.
    """

    name: str
    protocol: Protocol
    address: str = ""
    port: int = 0
    ask: str = ""
    accepted: frozenset[Outcome] = CLOSED

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"bad name of a probe: {self.name!r}")
        for text in filter(None, (self.address, self.ask)):
            if not _ASKED.fullmatch(text) or text.startswith("-"):
                raise ValueError(f"bad target of a probe: {text!r}")


# A tool says who it is on the third descriptor, so that it can be ended: timeout(1) counts in whole seconds.
# What it says after that is judged when it has ended, or when its time is up. $1 is the address, $2 the port,
# $3 what is asked for. nc ends without a word where a connection is refused.
_FUNCTIONS = r"""
self() { read -r me rest </proc/self/stat; echo "${1:-pid} $me" >&3; }
tcp() { self; exec $bb nc -vz "$1" "$2" 2>&1 </dev/null; }
udp() { # sending is always possible: only an answer counts
  { self; exec $bb nc -uv "$1" "$2" 2>&3 <<END
bottle
END
  } | { o=$($bb xxd -p -l 1); [ -z "$o" ] || echo answered; }
}
icmp() { self; exec $bb ping -c1 "$1" 2>&1 </dev/null; }
dns() { self; exec $bb nslookup -type=a "$3" $1 2>&1 </dev/null; }
dnstcp() { # $3 is a whole message; two bytes of the answer count what it says (RFC 1035, 4.1.1)
  printf "$3" | { self; exec $bb nc -v "$1" "$2" 2>&3; } | {
    o=$($bb xxd -p -l 10)
    case $o in ????626f????????0000) echo nothing ;; ????626f*) echo answered ;; esac
  }
}
proxy() { # a proxy gives a request up whose sender has nothing more to say
  { self beside; printf 'CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n' "$3" "$3"; exec $bb sleep $seconds; } | {
    (self; exec $bb nc -v "$1" "$2" 2>&1)
    echo "end $?"
  }
}
routes() { # a header, then the routes (proc(5)); of IPv6 not those of loopback and of one link
  [ -e /proc/net/dev ] || { echo missing; return 2; }
  { read -r l; read -r l && echo answered; } </proc/net/route
  while read -r a b c d e f g h i j; do
    case $j$a in lo*|*fe80*|*ff00*) ;; *) echo answered ;; esac
  done </proc/net/ipv6_route
  echo unreachable
}
judge() { # NAME KIND
  pid= beside= s= r= t=60 # till it says who it is: without that it could not be ended, and would go on
  while [ -z "$r$s" ] && IFS= read -r -t $t line; do
    case $line in
      'pid '*) pid=${line#pid } t=$seconds ;;
      'beside '*) beside=${line#beside } ;;
      'end '*) s=${line#end } ;;
      answered|*' bytes from '*|'Address: '*|'HTTP/1.'?' 2'*) r=open ;;
      *') open') [ $2 != tcp ] || r=open ;;
      *nreachable|*': bad address '*|*' not available'|*' not supported'*) r=unreachable ;;
      *'ermission denied'*|*' not permitted'|*' refused'|*" can't find "*|nothing|'HTTP/1.'*) r=refused ;;
    esac
  done
  [ -n "$s" ] || kill -9 $pid
  [ -z "$beside" ] || kill -9 $beside
  case $s in '') r=${r:-silent} ;; 0|1) r=${r:-refused} ;; esac
  echo "$1 ${r:-error}"
}
waited=
try() { # NAME KIND ADDRESS PORT ASK
  name=$1 kind=$2
  shift 2
  { ( $kind "$@" ) 3>&1; echo "end $?"; } | judge $name $kind &
  waited="$waited $!"
}
"""


def script(probes: Sequence[Probe], *, seconds: float = SECONDS, busybox: Sequence[str] = BUSYBOX) -> str:
    """Give the script. It writes a line `NAME OUTCOME` for each probe, in any order, and always ends."""
    lines = [f"bb={shlex.quote(' '.join(busybox))}", _FUNCTIONS, "exec 2>/dev/null"]
    for probe in probes:
        ask = _message(probe.ask) if probe.protocol == "dnstcp" else probe.ask
        lines.append(f"seconds={seconds if 'silent' in probe.accepted else max(seconds, _PATIENCE):g}")
        lines.append("try " + shlex.join((probe.name, probe.protocol, probe.address, str(probe.port), ask)))
    return "\n".join([*lines, "wait $waited", ""])


def _message(name: str) -> str:
    """Give a question over TCP for a name's address, for printf: its number is "bo" (RFC 1035, 4.2.2)."""
    labels = b"".join(bytes([len(part)]) + part for part in name.encode("ascii").split(b"."))
    message = b"bo\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    return "".join(f"\\{byte:03o}" for byte in len(message).to_bytes(2, "big") + message)


def outcomes(output: bytes, probes: Sequence[Probe]) -> dict[str, Outcome]:
    """Read what the script wrote. A probe that is not told, or told twice, is an error."""
    found: dict[str, list[Outcome]] = {probe.name: [] for probe in probes}
    for line in output[:_MOST_OUTPUT].decode("ascii", "replace").splitlines():
        name, _, word = line.partition(" ")
        if name in found:
            found[name] += [known for known in _OUTCOMES if known == word] or ["error"]
    return {name: told[0] if len(told) == 1 else "error" for name, told in found.items()}


@dataclass(frozen=True, slots=True)
class Proof:
    """What each probe met, and whether that holds with the walls up."""

    results: Mapping[str, tuple[str, bool]]

    def __or__(self, other: Proof) -> Proof:
        """Return it together with what other probes met."""
        return Proof({**self.results, **other.results})

    @property
    def holds(self) -> bool:
        """Whether the walls are up."""
        return all(ok for _, ok in self.results.values())

    def described(self) -> dict[str, dict[str, object]]:
        """Give it as a JSON document."""
        return {name: {"outcome": outcome, "ok": ok} for name, (outcome, ok) in self.results.items()}

    def require(self) -> None:
        """Hold that the walls are up. Raises WallsError with what got out."""
        bad = [f"{name}: {outcome}" for name, (outcome, ok) in self.results.items() if not ok]
        if bad:
            raise WallsError(
                "the bottle's walls are not up",
                why="tried from inside, with what came of it: " + ", ".join(bad),
                next_step="see `bottle doctor`; the command was not started",
            )


def judge(output: bytes, probes: Sequence[Probe]) -> Proof:
    """Compare what the script wrote with what is accepted."""
    met = outcomes(output, probes)
    return Proof({probe.name: (met[probe.name], met[probe.name] in probe.accepted) for probe in probes})


# below those that connections come from (ip(7), ip_local_port_range): none takes one by itself
PORTS = range(10_000, 30_000)


@contextmanager
def canary() -> Iterator[int]:
    """Give a port of this machine's loopback that answers, for the time of the block.

    It is none that connections come from by themselves: one of those may meet itself where nobody listens
    (tcp(7) knows no difference), and would look like an answer.
    """
    with socket.socket() as listener:
        while True:
            port = secrets.choice(PORTS)
            with suppress(OSError):  # taken
                listener.bind(("127.0.0.1", port))
                break
        listener.listen()
        yield port
