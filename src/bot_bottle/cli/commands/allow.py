"""`bottle allow`: show, extend or reduce the network policy of a running bottle."""

from __future__ import annotations

import click

from bot_bottle.bottle import network as egress
from bot_bottle.cli import complete_names as completing
from bot_bottle.cli.complete_entries import complete_rules
from bot_bottle.errors import UsageError

_HELP = """Allow the running bottle NAME to reach HOST: a host, *.domain, address, range or preset.

It is in force from the next request until the bottle exits. With --remove the rules of these entries are
removed; connections that are open go on. Without HOST the policy is only printed. A bottle that was started
without a network cannot be changed; the message says how to run it again.

With --ask instead of HOST, a bottle that was started with --ask asks on this terminal, until it exits.

\b
Examples:
  bottle allow blue api.example.org
  bottle allow blue 'api.example.org:443 GET,HEAD /public/*' '*.files.example.org:443'
  bottle allow --remove blue api.example.org
  bottle allow blue
  bottle allow --ask blue
"""


@click.command("allow", help=_HELP)
@click.option("--remove", is_flag=True, help="Remove the rules of these entries.")
@click.option("--ask", is_flag=True, help="Answer the questions of the bottle.")
@click.argument("name", shell_complete=completing.running)
@click.argument("hosts", metavar="[HOST...]", nargs=-1, shell_complete=complete_rules)
def command(name: str, hosts: tuple[str, ...], *, remove: bool, ask: bool) -> None:
    """Change the rules and print the whole policy, or answer questions."""
    if ask:
        from bot_bottle.cli.answering import answer_questions

        if hosts or remove:
            raise UsageError("--ask takes neither --remove nor HOST")
        answer_questions(name)
        return
    if remove and not hosts:
        raise UsageError("--remove needs a HOST", next_step=f"see bottle allow {name} for what there is")
    if not hosts:
        policy = egress.policy_of(name)
    elif remove:
        policy = egress.disallow(name, list(hosts))
    else:
        policy = egress.allow(name, list(hosts))
    if policy.open:
        click.echo("its network is unrestricted", err=True)
    for rule in policy.rules:
        click.echo(str(rule))
