"""What holds a container's network: a program for this machine's Python that makes sockets inside."""

from __future__ import annotations

from bot_bottle.network.proxy_process import ADDRESS, PORT

# `listen=PATH`: hand out a socket that listens, for a proxy. `connect=PATH`: for every port that is asked
# for, in two bytes, hand out a connection to it; or say no. And hold the network until ended.
PROGRAM = f"""\
import signal, socket, sys

def listen(door):
    with socket.create_server(("{ADDRESS}", {PORT}), backlog=128) as listener:
        socket.send_fds(door, [b"l"], [listener.fileno()])
        door.recv(1)

def connect(door):
    while asked := door.recv(2, socket.MSG_WAITALL):
        try:
            made = socket.create_connection(("{ADDRESS}", int.from_bytes(asked, "big")), 5)
        except OSError:
            door.sendall(b"n")
        else:
            with made:
                made.settimeout(None)
                socket.send_fds(door, [b"y"], [made.fileno()])

for word in sys.argv[1:]:
    kind, _, path = word.partition("=")
    door = socket.socket(socket.AF_UNIX)
    door.connect(path)
    {{"listen": listen, "connect": connect}}[kind](door)
signal.pause()
"""
