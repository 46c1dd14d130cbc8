"""`bottle login`: give an agent's login to bottles, which never have its values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from bot_bottle.agent import profile as profiles
from bot_bottle.cli.output import table
from bot_bottle.errors import SecretError, UsageError
from bot_bottle.host import terminal
from bot_bottle.host.redact import Secret
from bot_bottle.login import keys, own_file, records
from bot_bottle.login.records import Record
from bot_bottle.login.values import login_of, variables

if TYPE_CHECKING:
    from bot_bottle.agent.own_login import OwnLogin
    from bot_bottle.login.own_file import OwnFile

_HELP = """Use a login of the agent NAME in bottles: claude, codex, gemini, opencode, or a profile of yours.

Without options it is the login that the agent has on this machine, if it has one, and else an API key that is
asked for. The agent's own files are not copied: they are read when a bottle needs them, and tokens that end
are refreshed there. An API key is stored in the keychain of secret-tool where there is one, else in a private
file. Bottles get placeholders; the values are put into requests to the vendor's hosts outside of them.

Without NAME the logins are listed.

\b
Examples:
  bottle login claude
  bottle login claude --key
  bottle login codex --from-env OPENAI_API_KEY
  bottle login gemini --from-file ~/.config/example/gemini-key
  bottle login
"""

_WIDTHS = (10, 34, 24)


@click.command("login", help=_HELP)
@click.option("--key", "ask", is_flag=True, help="Ask for an API key on the terminal.")
@click.option("--from-agent", "own", is_flag=True, help="Use the login that the agent has on this machine.")
@click.option("--from-env", "env", metavar="VARIABLE", help="Store the API key in a variable of yours.")
@click.option("--from-file", "file", metavar="FILE", help="Store the API key in a file.")
@click.option("--from-keychain", "keychain", metavar="SERVICE/ACCOUNT", help="Use an entry of your keychain.")
@click.option("--json", "as_json", is_flag=True, help="List as JSON.")
@click.argument("name", required=False)
def command(
    name: str | None,
    *,
    ask: bool,
    own: bool,
    env: str | None,
    file: str | None,
    keychain: str | None,
    as_json: bool,
) -> None:
    """Store a login, or list them."""
    places = {"env": env, "file": file, "keychain": keychain}
    given = {kind: place for kind, place in places.items() if place is not None}
    if len(given) + ask + own > 1:
        raise UsageError("give one of --key, --from-agent, --from-env, --from-file and --from-keychain")
    if name is None:
        if given or ask or own:
            raise UsageError("whose login is this?", next_step="bottle login NAME, for example claude")
        _list(as_json=as_json)
        return
    if as_json:
        raise UsageError("--json is for the list, without NAME")
    login = login_of(name)
    path = own_file.path_of(login)
    if own or (not given and not ask and path is not None and path.exists()):
        found = own_file.read(name, login)
        if not any(found.text(place) for place in login.values.values()):
            raise _unusable(name, login, found)
        records.save_own(name)
        click.echo(f"{name}: its own login on this machine is used ({found.path})")
        return
    key = keys.read(given) if given else _asked(name, only_keys=not login.file)
    variable = keys.variable_for(name, login, key)
    if keychain is not None:
        records.save_reference(name, variable, keychain)
        where = f"your keychain, as {keychain}"
    else:
        where = records.save_key(name, variable, key)
    click.echo(f"{name}: an API key for {variable}, in {where}")


def _unusable(name: str, login: OwnLogin, found: OwnFile) -> SecretError:
    """Return the error for a file of an agent that has no value for bottles."""
    if login.refresh is not None:
        return SecretError(f"there is no login in {found.path}", next_step=f"log in with {name} itself")
    return SecretError(
        f"there is no API key in {found.path}",
        why="bottle cannot use a login of another kind, such as one with a subscription",
        next_step=f"give an API key: bottle login {name} --key",
    )


def _asked(name: str, *, only_keys: bool) -> Secret:
    if not terminal.is_terminal():
        without = f"bottle can only use an API key for {name}" if only_keys else f"{name} has no login here"
        raise UsageError(
            f"{without}, and there is no terminal to ask for an API key",
            next_step=f"use bottle login {name} --from-env VARIABLE, --from-file FILE or --from-keychain",
        )
    if only_keys:
        click.echo(f"{name}: bottle can only use an API key for it, no login with an account", err=True)
    return Secret(click.prompt(f"API key of {name} (not shown)", hide_input=True, err=True).strip())


def _list(*, as_json: bool) -> None:
    found = [_described(name) for name in sorted({*profiles.names(), *records.names()})]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [("NAME", "LOGIN", "VALUES FOR", "")]
    for each in found:
        rows.append((each["name"], each["login"], ", ".join(each["variables"]) or "-", each["note"]))
    click.echo(table(rows, least=_WIDTHS))


def _described(name: str) -> dict[str, Any]:
    note = ""
    try:
        record = records.read(name)
        login = profiles.load(name).login if name in profiles.names() else None
        if login is not None and record is None:
            path = own_file.path_of(login)
            note = f"bottle login {name} uses {path}" if path is not None and path.exists() else ""
            if variables_set := keys.given_in_environment(login):
                note = f"{variables_set[0]} of your environment is used"
        if login is not None and record is not None and record.form == "own":
            note = _ends(own_file.read(name, login).ends(login))
        how = _how(record)
    except SecretError as error:
        how, note = "cannot be used", error.message
    return {"name": name, "login": how, "variables": list(variables(name)), "note": note}


def _how(record: Record | None) -> str:
    if record is None:
        return "none"
    if record.form == "own":
        return "its own on this machine"
    return f"API key in the keychain ({record.keychain})" if record.keychain else "API key in a private file"


def _ends(end: float | None) -> str:
    return "" if end is None else f"refreshed before {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%MZ}"
