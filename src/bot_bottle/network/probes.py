"""Probes: attempts to get out, made inside a bottle before its command starts, which prove its isolation.

The probes are one script for the shell of a small toolkit: busybox and its loader from smolvm's guest system,
mounted read-only in the bottle at TOOLKIT. Nothing of the image is needed or trusted: every command line
names the loader, so no program or library of the image runs.

All probes run at once; one without an answer when the time is up is silent. The output comes from inside the
bottle and may be forged, so only expected names with valid outcomes count, once each.
"""

from __future__ import annotations

import re
import secrets
import shlex
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Literal, get_args

from msgspec import Struct

from bot_bottle.errors import WallsError

TOOLKIT = "/.bottle"
# files of the toolkit; the loader has a name of its own, since no image has it at this place
BUSYBOX = (f"{TOOLKIT}/ld.so", "--library-path", TOOLKIT, f"{TOOLKIT}/busybox")
SHELL = (*BUSYBOX, "sh", "-c")  # the script follows
# the loader obeys these, and an image may set them: a backend makes them empty for the probes
CLEARED: Mapping[str, str] = {"LD_PRELOAD": "", "LD_LIBRARY_PATH": ""}

# prefix of lines of proc_pid_status(5) in the output of the probes
STATUS = "status."

SECONDS = 0.3  # timeout of a probe, where processors are real
_SHORT = 1.0  # a timeout up to which it is not worth measuring how fast answers come
_PATIENCE = 6.0  # seconds, for a probe that must not be silent: a busy machine answers late

Protocol = Literal["routes", "tcp", "udp", "icmp", "dns", "dnstcp", "proxy"]
Outcome = Literal["open", "refused", "unreachable", "silent", "error"]

_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_ASKED = re.compile(r"[A-Za-z0-9._:\[\]-]{1,260}")
_MOST_OUTPUT = 1 << 16  # bytes of the output that are read

# a firewall drops packets, or rejects them
CLOSED: frozenset[Outcome] = frozenset({"refused", "unreachable", "silent"})
ANY: frozenset[Outcome] = frozenset(_OUTCOMES)


class Probe(Struct, frozen=True):
    """One attempt to get out, and the outcomes that are expected under network isolation.

    `ask` is the name to resolve with `dns` and `dnstcp`, and HOST:PORT with `proxy`. `routes` needs no
    address: it is open when the bottle has a route to anything outside itself.
    """

    name: str
    protocol: Protocol
    address: str = ""
    port: int = 0
    ask: str = ""
    accepted: frozenset[Outcome] = CLOSED

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"invalid name of a probe: {self.name!r}")
        for text in filter(None, (self.address, self.ask)):
            if not _ASKED.fullmatch(text) or text.startswith("-"):
                raise ValueError(f"invalid target of a probe: {text!r}")


# A tool reports its pid on descriptor 3, so that it can be killed: timeout(1) has only whole seconds. Its
# output is judged when it has exited, or when its time is up. $1 is the address, $2 the port, $3 the request.
# nc exits without a message where a connection is refused.
_FUNCTIONS = r"""
self() { read -r me rest </proc/self/stat; echo "${1:-pid} $me" >&3; }
tcp() { self; exec $bb nc -vz "$1" "$2" 2>&1 </dev/null; }
udp() { # sending always succeeds: only an answer counts
  { self; exec $bb nc -uv "$1" "$2" 2>&3 <<END
bottle
END
  } | { o=$($bb xxd -p -l 1); [ -z "$o" ] || echo answered; }
}
icmp() { self; exec $bb ping -c1 "$1" 2>&1 </dev/null; }
dns() { self; exec $bb nslookup -type=a "$3" $1 2>&1 </dev/null; }
dnstcp() { # $3 is a complete message; ANCOUNT of the answer says whether it has records (RFC 1035, 4.1.1)
  printf "$3" | { self; exec $bb nc -v "$1" "$2" 2>&3; } | {
    o=$($bb xxd -p -l 10)
    case $o in ????626f????????0000) echo nothing ;; ????626f*) echo answered ;; esac
  }
}
proxy() { # a proxy drops a request whose sender has closed its side
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
  pid= beside= s= r= t=60 # until it reports its pid, without which it could not be killed
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
uptime() { # sets now, in hundredths of a second (proc(5))
  read -r now rest </proc/uptime
  now=$((${now%.*} * 100 + 1${now#*.} - 100)) # with the 1, a fraction such as 08 is not taken for octal
}
limit() { # LEAST MOST: sets seconds to the time since before, all in hundredths
  now=$((now - before))
  [ $now -ge $1 ] || now=$1
  [ $now -le $2 ] || now=$2
  seconds=$((now / 100)).$((now / 10 % 10))
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
    """Return a shell script that writes a line `NAME OUTCOME` for each probe, in any order.

    `seconds` is the timeout of a probe that may be silent. If it is long, those probes begin after the
    others, and their timeout is as long as all of those took together, within limits.
    """
    answered = [_line(probe) for probe in probes if "silent" not in probe.accepted]
    silent = [_line(probe) for probe in probes if "silent" in probe.accepted]
    lines = [f"bb={shlex.quote(' '.join(busybox))}", _FUNCTIONS, "exec 2>/dev/null"]
    lines += [f"seconds={max(seconds, _PATIENCE):g}"]
    if seconds > _SHORT:
        least, most = round(_SHORT * 100), round(seconds * 100)
        lines += ["uptime", "before=$now", *answered, "wait $waited", "uptime", f"limit {least} {most}"]
        lines += silent
    else:
        lines += [*answered, f"seconds={seconds:g}", *silent]
    return "\n".join([*lines, "wait $waited", ""])


def _line(probe: Probe) -> str:
    ask = _message(probe.ask) if probe.protocol == "dnstcp" else probe.ask
    return "try " + shlex.join((probe.name, probe.protocol, probe.address, str(probe.port), ask))


def _message(name: str) -> str:
    """Return a DNS query over TCP, escaped for printf: type A, ID "bo" (RFC 1035, 4.1.1 and 4.2.2)."""
    labels = b"".join(bytes([len(part)]) + part for part in name.encode("ascii").split(b"."))
    message = b"bo\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    return "".join(f"\\{byte:03o}" for byte in len(message).to_bytes(2, "big") + message)


def outcomes(output: bytes, probes: Sequence[Probe]) -> dict[str, Outcome]:
    """Parse the output of the script. A probe without a line, or with two, is an error."""
    found: dict[str, list[Outcome]] = {probe.name: [] for probe in probes}
    for line in output[:_MOST_OUTPUT].decode("ascii", "replace").splitlines():
        name, _, word = line.partition(" ")
        if name in found:
            found[name] += [outcome for outcome in _OUTCOMES if outcome == word] or ["error"]
    return {name: each[0] if len(each) == 1 else "error" for name, each in found.items()}


class Proof(Struct, frozen=True):
    """The outcome of each probe, and whether it is as expected."""

    results: Mapping[str, tuple[str, bool]]

    def __or__(self, other: Proof) -> Proof:
        """Return the outcomes of both."""
        return Proof({**self.results, **other.results})

    @property
    def ok(self) -> bool:
        """Whether the network isolation is in force."""
        return all(ok for _, ok in self.results.values())

    def described(self) -> dict[str, dict[str, object]]:
        """Return the outcomes as a JSON document."""
        return {name: {"outcome": outcome, "ok": ok} for name, (outcome, ok) in self.results.items()}

    def require(self) -> None:
        """Check that all outcomes are as expected. Raises WallsError that names the others."""
        bad = [f"{name}: {outcome}" for name, (outcome, ok) in self.results.items() if not ok]
        if bad:
            raise WallsError(
                "network isolation is not in force",
                why="probes from inside: " + ", ".join(bad),
                next_step="see `bottle doctor`; the command was not started",
            )


def prove_patiently(attempt: Callable[[float], Proof], patience: Iterable[float]) -> Proof:
    """Return the proof of the first attempt that succeeds, or that found a way out; else that of the last.

    `patience` are the timeouts of a probe in seconds, of one attempt and the next: a busy machine is late.
    """
    proof = Proof({})
    for seconds in patience:
        proof = attempt(seconds)
        if proof.ok or any(outcome == "open" and not ok for outcome, ok in proof.results.values()):
            break
    return proof


def judge(output: bytes, probes: Sequence[Probe]) -> Proof:
    """Compare the output of the script with the outcomes that are accepted."""
    met = outcomes(output, probes)
    return Proof({probe.name: (met[probe.name], met[probe.name] in probe.accepted) for probe in probes})


# below the ephemeral ports of connections (ip(7), ip_local_port_range)
PORTS = range(10_000, 30_000)


@contextmanager
def canary() -> Iterator[int]:
    """Yield a port of this machine's loopback that listens until the block ends.

    It is outside the ephemeral ports: a connection from such a port may connect to itself where nothing
    listens (simultaneous open, RFC 9293, 3.5), which would look like an answer.
    """
    with socket.socket() as listener:
        while True:
            port = secrets.choice(PORTS)
            with suppress(OSError):  # in use
                listener.bind(("127.0.0.1", port))
                break
        listener.listen()
        yield port
