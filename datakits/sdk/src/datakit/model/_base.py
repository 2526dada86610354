"""The base of every model: frozen, and an unknown key is an error."""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Frozen, strict about unknown keys; field descriptions end up in the exported JSON Schemas."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
