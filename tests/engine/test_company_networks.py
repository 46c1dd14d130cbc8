"""A container in a company's network: its proxy with a password, its authorities, its resolver."""

from __future__ import annotations

from pathlib import Path

from tests.support.bottle import Bottle
from tests.support.company import company, hold_hosts_are_reached_as_the_company_wants_it
from tests.support.engines import Docker
from tests.support.escapes import client_context


def test_a_container_reaches_hosts_as_the_company_wants_it(
    bottle: Bottle, docker: Docker, tmp_path: Path
) -> None:
    (tmp_path / "client").mkdir()
    (tmp_path / "none").touch()
    image = docker.build(client_context(tmp_path / "client", tmp_path / "none"))
    with company(tmp_path) as made:
        options = ("--backend=docker", "--image", image)
        hold_hosts_are_reached_as_the_company_wants_it(bottle, made, tmp_path, *options)
