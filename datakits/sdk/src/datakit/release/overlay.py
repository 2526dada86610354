"""The image in a GitOps folder: written into Kustomize's ``images:`` or the values of Airflow's Helm chart.

Only the lines about the image change; comments, order and everything else stay, because people keep these files by
hand. What comes out is read again and compared with what was wanted, so a layout that is not foreseen is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from datakit.errors import ConfigurationError, InvalidFile
from datakit.model.environment import AirflowDeployment
from datakit.model.lock import is_plain

_STEP: Final = "  "


@dataclass(frozen=True, slots=True)
class Overlay:
    """A file that says which image an Airflow has.

    :ivar replaces: the image's name in what Kustomize renders; None for a values file of Helm.
    """

    path: Path
    text: str
    replaces: str | None

    @classmethod
    def read(cls, root: Path, way: AirflowDeployment) -> Overlay:
        """Read the file that an environment names; its paths start at ``root``.

        :raises ConfigurationError: it is not there.
        :raises InvalidFile: it is no YAML, or no kustomization or values file.
        """
        if way.overlay is not None:
            path, replaces = root / way.overlay / "kustomization.yaml", way.replaces
        else:
            path, replaces = root / (way.values or ""), None
        try:
            text = path.read_bytes().decode("utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"the file that says which image Airflow has cannot be read: {error.strerror}",
                subject=str(path),
                cause="the section airflow of the environment names another place",
                fix="begin it there, or correct overlay or values in the environment",
            ) from None
        except UnicodeDecodeError:
            raise InvalidFile("it is no UTF-8 text", subject=str(path)) from None
        found = cls(path, text, replaces)
        document = found._document(text)
        if replaces is not None and document.get("kind", "Kustomization") != "Kustomization":
            raise InvalidFile(f"it is no Kustomization, but a {document['kind']}", subject=str(path))
        return found

    @property
    def image(self) -> str | None:
        """The image that it says now, ``NAME@DIGEST``; None if it says none by digest."""
        entry = self._entry(self._document(self.text))
        name = entry.get("newName" if self.replaces else "repository")
        digest = entry.get("digest")
        return f"{name}@{digest}" if name and digest else None

    def with_image(self, name: str, digest: str) -> str:
        """Return the text with that image instead.

        :raises InvalidFile: the file is laid out in a way in which it cannot be written without loss.
        """
        wanted: dict[str, Any] = _plain(self._document(self.text))
        text = self.text if self.text.endswith("\n") or not self.text else f"{self.text}\n"
        if self.replaces:
            values: dict[str, str | None] = {"newName": name, "digest": digest, "newTag": None}
            path: tuple[str | int, ...] = ("images", self._place(wanted))
            self._fill(wanted.setdefault("images", []), values)
        else:
            values = {"repository": name, "digest": digest, "tag": None}
            path = ("images", "airflow")
            _apply(wanted.setdefault("images", {}).setdefault("airflow", {}), values)
        try:
            written = _write(text, path, values, {"name": self.replaces} if self.replaces else {})
            if _plain(self._document(written)) == wanted:
                return written
        except (InvalidFile, TypeError, AttributeError):
            pass
        raise InvalidFile(
            "the image cannot be written without changing something else",
            subject=str(self.path),
            cause="the lines about it are laid out in an unusual way: anchors, several documents, or mixed brackets",
            fix=f"write once by hand, as a block of lines: {self._example(name, digest)}",
        )

    def _example(self, name: str, digest: str) -> str:
        if self.replaces:
            return f"images: - name: {self.replaces}, newName: {name}, digest: {digest}"
        return f"images: airflow: repository: {name}, digest: {digest}"

    def _document(self, text: str) -> dict[str, Any]:
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{self.path}:{mark.line + 1}:{mark.column + 1}" if mark else str(self.path)
            raise InvalidFile(
                f"it is no YAML: {getattr(error, 'problem', None) or 'it cannot be read'}", subject=where
            ) from None
        if not isinstance(document or {}, dict):
            raise InvalidFile("it has no keys", subject=str(self.path))
        found: dict[str, Any] = document or {}
        images = found.get("images")
        kind = list if self.replaces else dict
        if images is not None and not isinstance(images, kind):
            raise InvalidFile(
                f"images is no {'list' if self.replaces else 'mapping'}",
                subject=str(self.path),
                cause="a values file of Helm was named as overlay, or a kustomization as values",
                fix="correct overlay or values in the environment",
            )
        return found

    def _entry(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.replaces:
            entries = document.get("images") or []
            place = self._place(document)
            entry = entries[place] if place < len(entries) else {}
        else:
            entry = (document.get("images") or {}).get("airflow") or {}
        return entry if isinstance(entry, dict) else {}

    def _place(self, document: Mapping[str, Any]) -> int:
        """Return the place of the image in the list; the one after its end where it is not there."""
        entries = document.get("images") or []
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
        return names.index(self.replaces) if self.replaces in names else len(entries)

    def _fill(self, entries: list[dict[str, Any]], values: Mapping[str, str | None]) -> None:
        place = self._place({"images": entries})
        if place == len(entries):
            entries.append({"name": self.replaces})
        _apply(entries[place], values)


def _apply(entry: dict[str, Any], values: Mapping[str, str | None]) -> None:
    for key, value in values.items():
        if value is None:
            entry.pop(key, None)
        else:
            entry[key] = value


def _plain(document: Any) -> Any:
    """Return a copy that shares nothing within itself, as anchors do, without keys that are there and empty.

    Kustomize and Helm read an empty key as if it were not there.
    """
    if isinstance(document, dict):
        return {key: _plain(value) for key, value in document.items() if value is not None}
    return [_plain(each) for each in document] if isinstance(document, list) else document


def _write(
    text: str, path: tuple[str | int, ...], values: Mapping[str, str | None], begin: Mapping[str, str | None]
) -> str:
    """Set, add or remove keys of the mapping at ``path``, which is made, beginning with ``begin``, if it is missing."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None or (isinstance(node, yaml.MappingNode) and not node.value):
        return text + _block(path, {**begin, **values}, "")
    for depth, part in enumerate(path):
        child = _child(node, part)
        if child is None or _is_empty(child):
            return _insert(text, node, path[depth:], {**begin, **values}, child)
        node = child
    for key, value in values.items():
        text = _set(text, path, key, value)
    return text


def _set(text: str, path: tuple[str | int, ...], key: str, value: str | None) -> str:
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for part in path:
        node = _child(node, part)
    found = _child(node, key)
    if found is not None:
        start, end = found.start_mark.index, found.end_mark.index
        if value is not None:
            return text[:start] + _gap(text, start) + _scalar(value) + text[end:]
        return _without(text, node, key)
    return text if value is None else _insert(text, node, (key,), value, None)


def _without(text: str, node: yaml.MappingNode, key: str) -> str:
    """Remove a key with its line; where it shares that with others, leave it there without a value."""
    name, value = next(pair for pair in node.value if pair[0].value == key)
    begin = text.rfind("\n", 0, name.start_mark.index) + 1
    if not node.flow_style and not text[begin : name.start_mark.index].strip():
        return text[:begin] + text[_line_end(text, value.end_mark.index) :]
    return text[: value.start_mark.index] + _gap(text, value.start_mark.index) + "null" + text[value.end_mark.index :]


def _insert(text: str, node: Any, path: tuple[str | int, ...], value: Any, empty: Any) -> str:
    """Put what is missing below ``node``, behind all that is there."""
    if empty is not None:  # a key with nothing behind it, or empty brackets
        inside = _flow(path[1:], value)
        return (
            text[: empty.start_mark.index] + _gap(text, empty.start_mark.index) + inside + text[empty.end_mark.index :]
        )
    if node.flow_style:
        last = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
        return text[: last.end_mark.index] + ", " + _flow(path, value)[1:-1] + text[last.end_mark.index :]
    last = _last(node)
    first = node.value[0][0] if isinstance(node, yaml.MappingNode) else node.value[0]
    column = first.start_mark.column
    if isinstance(node, yaml.SequenceNode):
        column = text.rfind("-", 0, first.start_mark.index) - text.rfind("\n", 0, first.start_mark.index) - 1
    place = _line_end(text, last.end_mark.index)
    return text[:place] + _block(path, value, " " * column) + text[place:]


def _block(path: tuple[str | int, ...], value: Any, indent: str) -> str:
    """Return lines in block style."""
    if not path:
        if isinstance(value, dict):
            return "".join(f"{indent}{key}: {_scalar(each)}\n" for key, each in value.items() if each is not None)
        return f"{indent}{_scalar(value)}\n"
    part, rest = path[0], path[1:]
    if isinstance(part, int):
        lines = _block(rest, value, indent + _STEP)
        return f"{indent}- {lines[len(indent) + len(_STEP) :]}"
    if not rest and not isinstance(value, dict):
        return f"{indent}{part}: {_scalar(value)}\n"
    return f"{indent}{part}:\n{_block(rest, value, indent + _STEP)}"


def _flow(path: tuple[str | int, ...], value: Any) -> str:
    """Return text in brackets."""
    if not path:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key}: {_quoted(each)}" for key, each in value.items() if each is not None) + "}"
        return _quoted(value)
    inner = _flow(path[1:], value)
    return f"[{inner}]" if isinstance(path[0], int) else f"{{{path[0]}: {inner}}}"


def _child(node: Any, part: str | int) -> Any:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part] if part < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    return None


def _is_empty(node: Any) -> bool:
    if isinstance(node, yaml.ScalarNode):
        return node.tag == "tag:yaml.org,2002:null"
    return not node.value


def _last(node: Any) -> Any:
    """Return the last scalar, or brackets, below a node: the end of a block itself is on a later line."""
    while isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return node


def _line_end(text: str, index: int) -> int:
    """Return where the next line begins; a block scalar ends there already."""
    if index and text[index - 1] == "\n":
        return index
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1


def _gap(text: str, index: int) -> str:
    return "" if not index or text[index - 1] in " \n[{," else " "


def _scalar(value: str) -> str:
    return value if is_plain(value) else _quoted(value)


def _quoted(value: str) -> str:
    return f'"{value}"'
