"""Real clients, with the settings that a bottle has, reach a server by the proxy, and no other name."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.dns_server import dns_server
from tests.support.proxied import Proxied, proxied, read_head, server

from bot_bottle.network.proxy_address import proxy_variables

INDEX = {
    "name": "one",
    "dist-tags": {"latest": "1.2.3"},
    "versions": {"1.2.3": {"name": "one", "version": "1.2.3", "dist": {"tarball": "https://x.invalid/"}}},
}
JAVA = """
import java.net.*; import java.net.http.*; import java.security.*; import java.security.cert.*;
import java.io.*; import javax.net.ssl.*;

public class Get {
    public static void main(String[] args) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream file = new FileInputStream(args[0])) {
            CertificateFactory reader = CertificateFactory.getInstance("X.509");
            store.setCertificateEntry("own", reader.generateCertificate(file));
        }
        TrustManagerFactory trusted = TrustManagerFactory.getInstance("PKIX");
        trusted.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trusted.getTrustManagers(), null);
        URI uri = URI.create(args[1]);
        HttpsURLConnection old = (HttpsURLConnection) uri.toURL().openConnection();
        old.setSSLSocketFactory(context.getSocketFactory());
        System.out.println(new String(old.getInputStream().readAllBytes()));
        HttpClient.Builder builder = HttpClient.newBuilder().sslContext(context);
        HttpClient client = builder.proxy(ProxySelector.getDefault()).build();
        HttpRequest request = HttpRequest.newBuilder(uri).build();
        System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"""


@pytest.fixture
def there(tmp_path: Path, certificate: Path) -> Iterator[tuple[Proxied, int]]:
    """A proxy that allows one name, and the port of a server of that name and of another."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def answer(plug: socket.socket) -> None:
        with context.wrap_socket(plug, server_side=True) as secure:
            path = read_head(secure).split()[1].decode()
            body = _page(path).encode()
            kind = "text/html" if path.startswith("/simple") else "application/json"
            head = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            secure.sendall(f"HTTP/1.1 200 OK\r\n{head}".encode() + body)

    answers = {"api.example.org": ["127.0.0.1"], "other.example.org": ["127.0.0.1"]}
    with server(answer) as port, dns_server(answers) as names:
        allow = [f"api.example.org:{port}", f"127.0.0.1:{port}"]
        with proxied(tmp_path, allow, resolver=names.address) as proxy:
            yield proxy, port


def _page(path: str) -> str:
    if path.startswith("/simple"):
        return '<!DOCTYPE html><html><body><a href="one-1.2.3.tar.gz">one-1.2.3.tar.gz</a></body></html>'
    if path.endswith("/@v/list"):
        return "v1.2.3\n"
    return json.dumps(INDEX) if path.startswith("/one") else "reached"


def run(there: tuple[Proxied, int], folder: Path, certificate: Path, *argv: str) -> str:
    """Run a client and return what it wrote. Nothing but its settings leads it to the proxy."""
    proxy, _ = there
    kept = {name: os.environ[name] for name in ("PATH",)}
    found = {
        name: value.replace(":3128", f":{proxy.port}")
        for name, value in proxy_variables("127.0.0.1").items()
        if name.lower() != "no_proxy"
    }
    done = subprocess.run(
        argv,
        env={**kept, **found, "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


def clients(folder: Path, certificate: Path, port: int, proxy: int) -> dict[str, list[str]]:
    (folder / "Get.java").write_text(JAVA)
    shutil.copy(f"{certificate}.crt", folder / "ca.pem")
    where = ("-Dhttps.proxyHost=127.0.0.1", f"-Dhttps.proxyPort={proxy}")
    npm = ["npm", "--fetch-retries=0", f"--cafile={folder / 'ca.pem'}"]
    curl = ["curl", "-sS", "--cacert", str(certificate)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--retries=0"]
    apt = ["/usr/lib/apt/apt-helper", "-o", f"Acquire::https::CAInfo={folder / 'ca.pem'}", "-o"]
    go = ["env", f"SSL_CERT_FILE={folder / 'ca.pem'}", "GOPROXY=https://HOST", "GONOSUMDB=*", "go", "list"]
    return {
        "apt": [*apt, "Acquire::Retries=0", "download-file", "https://HOST/", str(folder / "got")],
        "go": [*go, "-m", "-versions", "module.example/one"],
        "java": ["java", *where, str(folder / "Get.java"), str(folder / "ca.pem"), "https://HOST/"],
        "curl": [*curl, "https://HOST/"],
        "curl with the name in capitals": [*curl, "https://UPPER/"],
        "curl with a final dot": [*curl, "-k", "https://DOTTED/"],
        "npm": [*npm, "view", "one", "version", "--registry=https://HOST/"],
        "pip": [
            *pip,
            "index",
            "versions",
            "one",
            "--cert",
            str(certificate),
            "--index-url=https://HOST/simple/",
        ],
    }


@pytest.mark.parametrize(
    ("client", "found"),
    [
        pytest.param("java", "reached\nreached", marks=pytest.mark.slow),
        ("apt", "Fetched 7 B"),
        pytest.param("go", "v1.2.3", marks=pytest.mark.slow),
        ("curl", "reached"),
        ("curl with the name in capitals", "reached"),
        ("curl with a final dot", "reached"),
        pytest.param("npm", "1.2.3", marks=pytest.mark.slow),
        ("pip", "1.2.3"),
    ],
)
def test_a_client_reaches_the_allowed_name_alone(
    there: tuple[Proxied, int], tmp_path: Path, certificate: Path, client: str, found: str
) -> None:
    proxy, port = there
    for host, reached in (("api.example.org", True), ("other.example.org", False)):
        argv = [
            word.replace("HOST", f"{host}:{port}")
            .replace("UPPER", f"{host.upper()}:{port}")
            .replace("DOTTED", f"{host}.:{port}")
            for word in clients(tmp_path, certificate, port, proxy.port)[client]
        ]
        said = run(there, tmp_path, certificate, *argv)
        assert (found in said) is reached, said
    entries = proxy.log()
    hosts = {(each["host"], each["verdict"]) for each in entries}
    assert hosts == {("api.example.org", "allowed"), ("other.example.org", "refused")}
