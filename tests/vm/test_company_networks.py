"""A microVM that QEMU emulates, in a company's network."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.bottle import Bottle
from tests.support.company import company, hold_hosts_are_reached_as_the_company_wants_it
from tests.support.engines import Docker
from tests.support.escapes import client_context


@pytest.mark.timeout(300)
def test_a_microvm_reaches_hosts_as_the_company_wants_it(
    docker: Docker, shared_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "client").mkdir()
    (tmp_path / "none").touch()
    image = docker.build(client_context(tmp_path / "client", tmp_path / "none"))
    bottle = Bottle(shared_cache, docker.variables)
    with company(tmp_path) as made:
        options = ("--accel=direct", "-m", "1g", "--image", image)
        hold_hosts_are_reached_as_the_company_wants_it(bottle, made, tmp_path, *options)
