"""The manifest in a `.smolmachine` file: what to run, with which resources, and which files it contains.

Source: smolvm's .smolmachine format v1, as smolvm 1.32.2 reads it. smolvm ignores unknown keys, and so does
this reader; nothing here rewrites a foreign manifest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from bot_bottle.errors import ArtifactError

MANIFEST_LIMIT = 16 << 20  # bytes; smolvm reads no more

_NEEDED = ("image", "digest", "platform")  # smolvm accepts empty ones, but not missing ones
_MODES = ("container", "vm")
_U8, _U32, _U64 = 0xFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


class Asset(Struct, frozen=True):
    """A file among the assets: its tar member's name, and its size in bytes, unpacked."""

    path: str
    size: int


class LayerAsset(Struct, frozen=True):
    """A layer's tar among the assets. `digest` names the layer; smolvm does not compare it with the bytes."""

    digest: str
    path: str
    size: int


class Assets(Struct, frozen=True):
    """The files in an artifact. Layers are bottom first.

    `libraries` may list files that are part of a program beside the artifact.
    """

    agent_rootfs: Asset
    layers: tuple[LayerAsset, ...]
    libraries: tuple[Asset, ...] = ()
    storage_template: Asset | None = None
    overlay_template: Asset | None = None

    def required(self) -> dict[str, int]:
        """Return the name and size of each tar member that must be there."""
        files = (self.agent_rootfs, self.storage_template, self.overlay_template)
        members = {file.path: file.size for file in files if file is not None}
        return members | {layer.path: layer.size for layer in self.layers}


class Manifest(Struct, frozen=True):
    """What smolvm reads of an artifact before it unpacks it.

    `platform` is the guest's, `os/architecture`; `host_platform` that of the machines that run it: smolvm
    warns of another one. `cpus` and `mem` (MiB) are defaults for a machine made from the artifact. `digest`
    is the image id. `image_size` is in bytes, unpacked. `network` allows all connections when it is true.
    `smolvm_version` decides how smolvm unpacks the layers: it must be the version of the guest files inside.
    `created` is a time in RFC 3339 form, or "".
    """

    image: str
    digest: str
    platform: str
    cpus: int
    mem: int
    assets: Assets
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    image_size: int = 0
    network: bool = False
    mode: str = "container"
    host_platform: str = ""
    created: str = ""
    smolvm_version: str = ""

    def to_json(self) -> bytes:
        """Return the manifest as it is in the file: always the same bytes for the same manifest.

        Empty optional values are left out, `network` never is. Raises ArtifactError.
        """
        document: dict[str, Any] = {
            "mode": self.mode,
            "image": self.image,
            "digest": self.digest,
            "platform": self.platform,
            "entrypoint": self.entrypoint,
            "cmd": self.cmd,
            "env": self.env,
            "workdir": self.workdir,
            "user": self.user,
            "cpus": self.cpus,
            "mem": self.mem,
            "image_size": self.image_size,
            "network": self.network,
            "host_platform": self.host_platform,
            "created": self.created,
            "smolvm_version": self.smolvm_version,
        }
        document = {key: value for key, value in document.items() if key in _NEEDED or value not in ("", ())}
        document["assets"] = _assets_document(self.assets)
        try:
            raw = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError as error:
            raise ArtifactError(
                "the image's settings have text that is not Unicode", why=str(error)
            ) from error
        if len(raw) > MANIFEST_LIMIT:
            raise ArtifactError(
                "the image's settings are too long for an artifact",
                why=f"{len(raw)} bytes; smolvm reads {MANIFEST_LIMIT} at most",
                next_step="shorten the image's ENV, ENTRYPOINT and CMD",
            )
        return raw

    @classmethod
    def from_json(cls, raw: bytes) -> Manifest:
        """Parse a manifest from an untrusted file. Raises ArtifactError for anything smolvm would refuse."""
        if len(raw) > MANIFEST_LIMIT:
            raise _bad(f"{len(raw)} bytes; {MANIFEST_LIMIT} at most are allowed")
        try:
            document = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise _bad(f"not JSON: {error}") from error
        fields = _Object(document, "")
        return cls(
            image=fields.text("image"),
            digest=fields.text("digest"),
            platform=fields.text("platform"),
            cpus=fields.number("cpus", _U8),
            mem=fields.number("mem", _U32),
            assets=_read_assets(fields.child("assets")),
            entrypoint=fields.texts("entrypoint"),
            cmd=fields.texts("cmd"),
            env=fields.texts("env"),
            workdir=fields.text("workdir", "", null=True),
            user=fields.text("user", "", null=True),
            image_size=fields.number("image_size", _U64, 0),
            network=fields.flag("network"),
            mode=fields.choice("mode", _MODES),
            host_platform=fields.text("host_platform", ""),
            created=fields.text("created", ""),
            smolvm_version=fields.text("smolvm_version", ""),
        )


def _assets_document(assets: Assets) -> dict[str, Any]:
    document: dict[str, Any] = {
        "libraries": [_asset_document(asset) for asset in assets.libraries],
        "agent_rootfs": _asset_document(assets.agent_rootfs),
        "layers": [
            {"digest": layer.digest, "path": layer.path, "size": layer.size} for layer in assets.layers
        ],
    }
    for key in ("storage_template", "overlay_template"):
        if (asset := getattr(assets, key)) is not None:
            document[key] = _asset_document(asset)
    return document


def _asset_document(asset: Asset) -> dict[str, Any]:
    return {"path": asset.path, "size": asset.size}


def _read_assets(fields: _Object) -> Assets:
    return Assets(
        agent_rootfs=_read_asset(fields.child("agent_rootfs")),
        layers=tuple(
            LayerAsset(layer.text("digest"), layer.text("path"), layer.number("size", _U64))
            for layer in fields.children("layers")
        ),
        libraries=tuple(_read_asset(library) for library in fields.children("libraries")),
        storage_template=_read_template(fields, "storage_template"),
        overlay_template=_read_template(fields, "overlay_template"),
    )


def _read_template(fields: _Object, key: str) -> Asset | None:
    return _read_asset(fields.child(key)) if fields.value(key, None) is not None else None


def _read_asset(fields: _Object) -> Asset:
    return Asset(fields.text("path"), fields.number("size", _U64))


_REQUIRED: Any = object()


class _Object:
    """One JSON object of the manifest; its methods return values after a check of their types."""

    def __init__(self, document: Any, where: str) -> None:
        if not isinstance(document, dict):
            raise _bad(f"{where or 'the whole'} is not an object")
        self._document = document
        self._where = where

    def value(self, key: str, default: Any = _REQUIRED) -> Any:
        if key in self._document:
            return self._document[key]
        if default is _REQUIRED:
            raise _bad(f"{self._name(key)} is missing")
        return default

    def text(self, key: str, default: Any = _REQUIRED, *, null: bool = False) -> str:
        value = self.value(key, default)
        return "" if null and value is None else _text(value, self._name(key))

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(_text(item, self._name(key)) for item in self._list(key, []))

    def number(self, key: str, largest: int, default: Any = _REQUIRED) -> int:
        value = self.value(key, default)
        if type(value) is not int or not 0 <= value <= largest:
            raise _bad(f"{self._name(key)} is not a number from 0 to {largest}")
        return value

    def flag(self, key: str) -> bool:
        value = self.value(key, False)
        if type(value) is not bool:
            raise _bad(f"{self._name(key)} is not true or false")
        return value

    def choice(self, key: str, values: Sequence[str]) -> str:
        value = self.text(key, values[0])
        if value not in values:
            raise _bad(f"{self._name(key)} is not {' or '.join(values)}")
        return value

    def child(self, key: str) -> _Object:
        return _Object(self.value(key), self._name(key))

    def children(self, key: str) -> list[_Object]:
        return [_Object(item, self._name(key)) for item in self._list(key, _REQUIRED)]

    def _list(self, key: str, default: Any) -> list[Any]:
        value = self.value(key, default)
        if not isinstance(value, list):
            raise _bad(f"{self._name(key)} is not a list")
        return value

    def _name(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _bad(f"{name} is not text")
    try:
        value.encode()  # JSON can contain lone surrogates, which cannot be encoded
    except UnicodeEncodeError as error:
        raise _bad(f"{name} is not Unicode") from error
    return value


def _bad(why: str) -> ArtifactError:
    return ArtifactError("the artifact's manifest is damaged", why=why)
