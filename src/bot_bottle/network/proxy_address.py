"""Where a bottle's proxy is in the bottle, and how its programs find it."""

from __future__ import annotations

PORT = 3128  # the customary one of proxies
ADDRESS = "127.0.0.1"  # in a container; in a microVM it has another one


def proxy_variables(address: str) -> dict[str, str]:
    """Return the variables that configure programs for a proxy at this address of the bottle's network."""
    return {
        **dict.fromkeys(
            ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), f"http://{address}:{PORT}"
        ),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),  # the bottle's own loopback
        "NODE_USE_ENV_PROXY": "1",  # without it Node's fetch and http look at none of them
    }
