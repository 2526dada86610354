"""The base of every model: frozen, and an unknown key is an error."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_WORDS: dict[str, str] = {}


class Model(BaseModel):
    """Frozen, strict about unknown keys; the texts below its fields end up in the exported JSON Schemas."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema with the texts below the fields.

        Here and not by ``use_attribute_docstrings``, which reads the source code whenever a model is made: that was
        most of what importing the models cost, in every process that parses a DAG.
        """
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _attribute_texts(cls):
            for key in (name, cls.model_fields[name].alias):
                if key in properties:
                    properties[key].setdefault("description", text)
        return schema


def _attribute_texts(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yield each field that a string stands below, and the string."""
    for owner in (kind for kind in model.__mro__ if issubclass(kind, Model) and kind is not Model):
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)  # noqa: S101  # what getsource() returns for a class
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    if name in model.model_fields:
                        yield name, inspect.cleandoc(text)


def text_like(pattern: str, words: str, **more: Any) -> Any:
    """Return a pydantic ``Field`` for text of that pattern, which errors describe by ``words`` ("must be …")."""
    _WORDS[pattern] = words
    return Field(pattern=pattern, **more)


def pattern_words(pattern: str) -> str:
    """Return what :func:`text_like` was told about a pattern."""
    return _WORDS.get(pattern, f"text that matches {pattern}")
