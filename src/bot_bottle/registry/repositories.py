"""What a registry knows beside the bytes: which repository has which blobs, manifests and tags.

It is kept in memory and bounded: the registry ends with the command that needed it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

from bot_bottle.image.spec import Digest
from bot_bottle.registry.errors import TooMany
from bot_bottle.registry.store import BlobStore

_REPOSITORIES = 10_000
_ENTRIES = 100_000  # blobs, manifests or tags in one repository


@dataclass(frozen=True, slots=True)
class Manifest:
    """A stored manifest, byte for byte as it came. `subject` is the manifest that it refers to."""

    digest: Digest
    media_type: str
    size: int
    subject: Digest | None = None


@dataclass
class Repository:
    """One repository. A manifest's bytes are in the store; its digest is not a blob of the repository."""

    name: str
    blobs: set[Digest] = field(default_factory=set)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    _referrers: dict[Digest, set[Digest]] = field(default_factory=dict)

    def find(self, reference: str | Digest) -> Manifest | None:
        """Give a manifest by tag or digest."""
        digest = self.tags.get(reference) if isinstance(reference, str) else reference
        return self.manifests.get(digest) if digest is not None else None

    def add_blob(self, digest: Digest) -> None:
        """Have a blob of the store. Raises TooMany."""
        _room(len(self.blobs), "blobs")
        self.blobs.add(digest)

    def add(self, manifest: Manifest, tags: tuple[str, ...] = ()) -> None:
        """Have a manifest, and give it tags. Raises TooMany."""
        _room(len(self.manifests), "manifests")
        _room(len(self.tags) + len(tags), "tags")
        self.manifests[manifest.digest] = manifest
        self.tags.update(dict.fromkeys(tags, manifest.digest))
        if manifest.subject is not None:
            self._referrers.setdefault(manifest.subject, set()).add(manifest.digest)

    def remove(self, manifest: Manifest) -> None:
        """Forget a manifest and its tags."""
        del self.manifests[manifest.digest]
        self.tags = {tag: digest for tag, digest in self.tags.items() if digest != manifest.digest}
        if manifest.subject is not None:
            referrers = self._referrers[manifest.subject]
            referrers.discard(manifest.digest)
            if not referrers:
                del self._referrers[manifest.subject]

    def sorted_tags(self, after: str | None = None) -> list[str]:
        """Give the tags in the order of their bytes, from the one after `after` on."""
        tags = sorted(self.tags)
        return tags if after is None else tags[bisect.bisect_right(tags, after) :]

    def referrers(self, subject: Digest, after: str | None = None) -> Iterator[Manifest]:
        """Give the manifests that name `subject`, in the order of their digests."""
        for digest in sorted(self._referrers.get(subject, ())):
            if after is None or digest.text > after:
                yield self.manifests[digest]


class Repositories:
    """All repositories of one registry, over one store."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self._by_name: dict[str, Repository] = {}

    def find(self, name: str) -> Repository | None:
        """Give a repository that something was put into."""
        return self._by_name.get(name)

    def make(self, name: str) -> Repository:
        """Give a repository, new if need be. Raises TooMany."""
        if name not in self._by_name:
            if len(self._by_name) >= _REPOSITORIES:
                raise TooMany(f"the registry keeps {_REPOSITORIES} repositories at most")
            self._by_name[name] = Repository(name)
        return self._by_name[name]

    def has_blob(self, digest: Digest, name: str | None) -> bool:
        """Whether a repository, or with None any of them, has a blob."""
        if name is None:
            return any(digest in each.blobs for each in self._by_name.values())
        repository = self.find(name)
        return repository is not None and digest in repository.blobs

    def release(self, digest: Digest) -> None:
        """Let the store forget content that no repository has any more."""
        for each in self._by_name.values():
            if digest in each.blobs or digest in each.manifests:
                return
        self.store.remove(digest)


def _room(count: int, what: str) -> None:
    if count >= _ENTRIES:
        raise TooMany(f"a repository keeps {_ENTRIES} {what} at most")
