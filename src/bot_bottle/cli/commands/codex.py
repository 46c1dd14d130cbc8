"""`bottle codex`: let Codex work in a bottle."""

from __future__ import annotations

from bot_bottle.cli.agent_command import agent_command

command = agent_command("codex", "Codex")
