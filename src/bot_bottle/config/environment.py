"""The `BOT_BOTTLE_*` variables without an option. Those of options are documented with the option."""

from __future__ import annotations

READ = {
    "BOT_BOTTLE_CACHE_DIR": "The cache folder, an absolute path (default: `bot-bottle` in the user's cache "
    "folder, on Linux `~/.cache/bot-bottle`). Artifacts, the emulated host's files and the run folders are "
    "in it.",
    "BOT_BOTTLE_KEEP_RUN": "`1` keeps the run folder of a command for debugging, and prints its path.",
    "BOT_BOTTLE_REGISTRY_IMAGE": "The image of the registry's container form (default: `registry:2.8.3`, "
    "pinned by digest).",
    "BOT_BOTTLE_RESOLVER": "The DNS server, `ADDRESS` or `ADDRESS:PORT`, that resolves the names which a "
    "bottle may reach (default: this machine's resolver).",
    "BOT_BOTTLE_SMOLVM": "The smolvm program (default: a recent one on PATH, else that of the Python package "
    "`smolmachines`).",
    "BOT_BOTTLE_STATE_DIR": "The state folder, an absolute path (default: `bot-bottle` in the user's state "
    "folder, on Linux `~/.local/state/bot-bottle`). Clones, receipts, logs and grants are in it.",
}
"""What a user may set."""

SET = {
    "BOT_BOTTLE_PREFIX": "`bottle registry -- CMD`: the prefix of the registry's repositories.",
    "BOT_BOTTLE_REF": "`bottle registry -- CMD`: the reference of the first image; `BOT_BOTTLE_REF1`, "
    "`BOT_BOTTLE_REF2`, ... are those of all.",
    "BOT_BOTTLE_REF1": "`bottle registry -- CMD`: as `BOT_BOTTLE_REF`.",
    "BOT_BOTTLE_REGISTRY": "`bottle registry -- CMD`: the registry's address, `127.0.0.1:PORT`.",
}
"""What a command finds in its environment."""

INTERNAL = {
    "BOT_BOTTLE_BUILD_SECRET": "Passes secrets to a build: `BOT_BOTTLE_BUILD_SECRET_0`, `_1`, ...",
    "BOT_BOTTLE_BUILD_SECRET_OF_SETUP": "Passes values to the build on top of a devcontainer.json's "
    "image: `BOT_BOTTLE_BUILD_SECRET_OF_SETUP_0`, ...",
    "BOT_BOTTLE_DETACHED": "Passes the state of `bottle run -d` to the process in the background.",
    "BOT_BOTTLE_SENT_SECRET": "Passes secrets to a bottle on a node: `BOT_BOTTLE_SENT_SECRET_NAME`.",
    "BOT_BOTTLE_PARENT": "Passes the process that a helper ends with.",
}
"""What bottle passes to its own processes."""
