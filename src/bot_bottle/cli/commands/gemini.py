"""`bottle gemini`: let the Gemini CLI work in a bottle."""

from __future__ import annotations

from bot_bottle.cli.agent_command import agent_command

command = agent_command("gemini", "the Gemini CLI")
