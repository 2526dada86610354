"""The base of every model: frozen, and an unknown key is an error."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_WORDS: dict[str, str] = {}


class Model(BaseModel):
    """Frozen, strict about unknown keys; field descriptions end up in the exported JSON Schemas."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def text_like(pattern: str, words: str, **more: Any) -> Any:
    """Return a pydantic ``Field`` for text of that pattern, which errors describe by ``words`` ("must be …")."""
    _WORDS[pattern] = words
    return Field(pattern=pattern, **more)


def pattern_words(pattern: str) -> str:
    """Return what :func:`text_like` was told about a pattern."""
    return _WORDS.get(pattern, f"text that matches {pattern}")
