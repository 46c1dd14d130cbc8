"""`bottle opencode`: let opencode work in a bottle."""

from __future__ import annotations

from bot_bottle.cli.agent_command import agent_command

command = agent_command("opencode", "opencode")
