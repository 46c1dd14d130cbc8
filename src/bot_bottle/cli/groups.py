"""Help in which a command's options are in groups."""

from __future__ import annotations

import click

OTHER = "Other"
GROUPS: dict[str, tuple[str, ...]] = {
    "Image": (
        "dockerfile",
        "build_args",
        "build_secrets",
        "build_ssh",
        "target",
        "platform",
        "no_cache",
        "pull",
        "image",
        "archive",
        "engine",
    ),
    "Agent": ("agent", "agent_from", "prompt", "no_state"),
    "Command": ("name", "env", "secrets", "user", "workdir", "detach"),
    "Resources": ("backend", "accel", "cpus", "memory", "storage", "timeout", "max_requests", "max_tokens"),
    "Network": (
        "allow",
        "ask",
        "host_ports",
        "network",
        "cache_packages",
        "no_cache_packages",
        "ports",
        "git_push",
        "yes",
    ),
    "Workspace": ("workspace", "workspace_include_dirty"),
    "Conversion": ("packer", "via", "transport", "max_image_size", "cache_push", "locked"),
    "Output": ("quiet", "verbose", "timed", "plan_only", "twin", "as_json"),
}
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


class GroupedOptions(click.Command):
    """A command whose help shows its options by subject."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section for each group; those in no group come last."""
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in (*GROUPS, OTHER)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                rows[_GROUP_OF.get(param.name or "", OTHER)].append(record)
        for group, records in rows.items():
            if records:
                with formatter.section(f"{group} options"):
                    formatter.write_dl(records)
