"""git from inside a bottle: fetch from named remotes and push to them, with no credential in the bottle.

A server outside the bottle answers for each remote from a bare repository of ours, the quarantine. It fetches
into it with the user's own git, and checks what the bottle pushes before it is pushed on.
"""
