# ruff: noqa: S608 - the names of tables and columns are our own
"""A root filesystem as a table on disk, so that comparing takes the same memory for any number of files."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import astuple

from bot_bottle.errors import CacheError, DiskFullError
from bot_bottle.rootfs.tree import PATH_MAX
from bot_bottle.verify.entries import Entry, EntryMetadata, plain

_FOLLOWS = 40  # symlinks in one path: path_resolution(7)
_COLUMNS = ", ".join(EntryMetadata.__struct_fields__)
_MARKS = ", ".join("?" for _ in EntryMetadata.__struct_fields__)


@contextmanager
def tables(folder: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a new database in `folder`, which the caller owns.

    Raises DiskFullError when it does not fit there.
    """
    path = folder / "entries.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # the database is not used after a crash
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-32000"):
            connection.execute(f"PRAGMA {setting}")
        yield connection
    except sqlite3.OperationalError as error:
        kind = DiskFullError if error.sqlite_errorcode == sqlite3.SQLITE_FULL else CacheError
        raise kind(
            f"cannot store the list of files in {folder}",
            why=str(error),
            next_step="free some space, or set BOT_BOTTLE_CACHE_DIR to another folder",
        ) from error
    finally:
        connection.close()
        path.unlink(missing_ok=True)


class Tree:
    """The files of one root filesystem by path.

    `refuse` is called with the reason why smolvm would not unpack a path, and the path.
    """

    def __init__(
        self, connection: sqlite3.Connection, name: str, refuse: Callable[[str, bytes], None]
    ) -> None:
        self.name = name
        self.count = 0
        self._refuse = refuse
        self._run = connection.execute
        self._inode = 0
        self._near: bytes | None = None  # cache of the last folder that got an entry
        self._run(f"CREATE TABLE {name} (path BLOB PRIMARY KEY, inode INTEGER NOT NULL) WITHOUT ROWID")
        self._run(f"CREATE TABLE {name}_files (inode INTEGER PRIMARY KEY, {_COLUMNS})")
        self._select = f"SELECT path, {_COLUMNS} FROM {name} JOIN {name}_files USING (inode)"
        self._insert_file = f"INSERT INTO {name}_files VALUES (?, {_MARKS})"

    def add(self, entry: Entry) -> None:
        """Add an entry as unpacking the tar would: it replaces what has its name."""
        self.count += 1
        path = self._place(plain(entry.name))
        if not path:
            return  # the root's own attributes are not compared
        if entry.facts is not None:
            if why := refused_link(path, entry.facts.link):
                self._refuse(why, path)
            self._put(path, entry.facts)
            return
        target = self._place(plain(entry.hard_link))
        inode = self._inode_of(target) if target else None
        if inode is None:
            self._refuse("a dangling hard link", path)
        else:
            self._name(path, inode, is_folder=False)

    def get(self, path: bytes) -> EntryMetadata | None:
        """Return what is at a path; links are not followed."""
        row = self._run(f"{self._select} WHERE path = ?", (path,)).fetchone()
        return None if row is None else EntryMetadata(*row[1:])

    def all(self) -> Iterator[tuple[bytes, EntryMetadata]]:
        """Yield every path and what is there, sorted by path."""
        for path, *row in self._run(f"{self._select} ORDER BY path"):
            yield path, EntryMetadata(*row)

    def groups_query(self, table: str, other: Tree) -> str:
        """Return SQL that makes a table of the paths which share a file, and the first of the file's names.

        Only paths that `other` also has count.
        """
        return f"""
            CREATE TABLE {table} AS WITH common AS (
                SELECT path, inode FROM {self.name} WHERE path IN (SELECT path FROM {other.name}))
            SELECT path, first FROM common JOIN (
                SELECT inode, min(path) AS first FROM common GROUP BY inode HAVING count(*) > 1
            ) USING (inode)"""

    def leads_to(self, path: bytes, target: bytes) -> tuple[bytes, bytes]:
        """Return where a symlink at `path` leads, followed as the kernel does with this tree as its root.

        The first value is the path that exists, the second the components after it that do not. A link at the
        end is not followed.
        """
        here = [] if target.startswith(b"/") else path.split(b"/")[:-1]
        todo = _words(target)
        follows = 0
        while todo:
            word = todo.pop(0)
            if word == b"..":
                del here[-1:]
                continue
            facts = self.get(b"/".join([*here, word])) if todo else None
            if facts is not None and facts.kind == "symlink" and follows < _FOLLOWS:
                follows += 1
                here = [] if facts.link.startswith(b"/") else here
                todo = _words(facts.link) + todo
            elif not todo or (facts is not None and facts.kind == "folder"):
                here.append(word)
            else:
                return b"/".join(here), b"/".join([word, *todo])
        return b"/".join(here), b""

    def _place(self, path: bytes) -> bytes | None:
        """Return a path with the links on its way followed, its folders created where they are missing.

        None means one that smolvm would not unpack.
        """
        head, slash, name = path.rpartition(b"/")
        if path.startswith(b"/") or b".." in path.split(b"/"):
            return self._refuse("a name that leads outside", path)
        if len(path) > PATH_MAX:
            return self._refuse("a path that no file system can store", path)
        if not slash or head == self._near:
            return path
        folder = head if self._kind(head) == "folder" else self._walk(path, head)
        if folder is None:
            return None
        self._near = folder
        return folder + b"/" + name if folder else name

    def _walk(self, path: bytes, head: bytes) -> bytes | None:
        here = b""
        for word in head.split(b"/"):
            step = here + b"/" + word if here else word
            facts = self.get(step)
            if facts is None:
                self._put(step, EntryMetadata("folder"))
            elif facts.kind == "symlink":
                through, missing = self.leads_to(step, facts.link + b"/.")
                if facts.link.startswith(b"/") or missing or self._kind(through) != "folder":
                    return self._refuse("an entry through a link", path)
                step = through
            elif facts.kind != "folder":
                return self._refuse("an entry in something that is not a folder", path)
            here = step
        return here

    def _kind(self, path: bytes) -> str:
        facts = self.get(path) if path else EntryMetadata("folder")
        return facts.kind if facts is not None else ""

    def _put(self, path: bytes, facts: EntryMetadata) -> None:
        self._inode += 1
        self._run(self._insert_file, (self._inode, *astuple(facts)))
        self._name(path, self._inode, is_folder=facts.kind == "folder")

    def _name(self, path: bytes, inode: int, *, is_folder: bool) -> None:
        """Set the name of a file; what had it is removed with its contents, except a folder by a folder."""
        if self._run(f"INSERT OR IGNORE INTO {self.name} VALUES (?, ?)", (path, inode)).rowcount:
            return
        if not (is_folder and self._kind(path) == "folder"):
            within = (path + b"/", path + b"0")  # 0 follows / in the order of bytes
            self._run(f"DELETE FROM {self.name} WHERE path > ? AND path < ?", within)
            self._near = None
        self._run(f"UPDATE {self.name} SET inode = ? WHERE path = ?", (inode, path))

    def _inode_of(self, path: bytes) -> int | None:
        row = self._run(f"SELECT inode FROM {self.name} WHERE path = ?", (path,)).fetchone()
        return None if row is None else int(row[0])


def refused_link(path: bytes, link: bytes) -> str:
    """Return why smolvm refuses a symlink, or "": it checks the text, not what the link leads to."""
    if len(link) > PATH_MAX:
        return "a symlink that no file system can store"
    absolute = link.startswith(b"/")
    depth = 0 if absolute else path.count(b"/")
    for word in _words(link):
        depth += -1 if word == b".." else 1
        if depth < 0:
            return "a symlink that leads above the root"
    return "a symlink to the root" if absolute and not depth else ""


def _words(path: bytes) -> list[bytes]:
    return [word for word in path.split(b"/") if word not in (b"", b".")]
