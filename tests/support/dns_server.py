"""A DNS server of the loopback, whose answers a test sets."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Answers = Mapping[str, "str | list[str] | Callable[[], list[str]]"]


@dataclass
class DnsServer:
    """At `port`; `asked` are the names and types of questions. A text is a CNAME."""

    answers: Answers
    port: int = 0
    truncates: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def answer(self, data: bytes, *, stream: bool) -> bytes:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        name, kind = query.question[0].name.to_text(omit_final_dot=True), query.question[0].rdtype.name
        self.asked.append((name, kind))
        if self.truncates and not stream:
            answer.flags |= dns.flags.TC
            return answer.to_wire()
        while isinstance(found := self.answers.get(name), str):
            answer.answer.append(dns.rrset.from_text(f"{name}.", 5, "IN", "CNAME", f"{found}."))
            name = found
        if found is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            addresses = found() if callable(found) else found
            fitting = [each for each in addresses if (":" in each) == (kind == "AAAA")]
            if fitting:
                answer.answer.append(dns.rrset.from_text(f"{name}.", 5, "IN", kind, *fitting))
        return answer.to_wire()


@contextmanager
def dns_server(answers: Answers, *, truncates: bool = False) -> Iterator[DnsServer]:
    """Run a server until the block ends."""
    made = DnsServer(answers, truncates=truncates)

    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, here = self.request
            here.sendto(made.answer(data, stream=False), self.client_address)

    class Stream(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            reply = made.answer(self.request.recv(4096)[2:], stream=True)
            self.request.sendall(len(reply).to_bytes(2, "big") + reply)

    tcp, udp = _servers(Stream, Datagram)
    made.port = tcp.server_address[1]
    with tcp, udp:
        for each in (udp, tcp):
            threading.Thread(target=each.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        for each in (udp, tcp):
            each.shutdown()


def _servers(
    stream: type[socketserver.BaseRequestHandler], datagram: type[socketserver.BaseRequestHandler]
) -> tuple[socketserver.TCPServer, socketserver.UDPServer]:
    """Return servers at a port that is free for both."""
    while True:
        udp = socketserver.UDPServer(("127.0.0.1", 0), datagram)
        try:
            return socketserver.ThreadingTCPServer(udp.server_address, stream), udp
        except OSError:  # others use it
            udp.server_close()
