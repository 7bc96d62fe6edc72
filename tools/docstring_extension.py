"""A Griffe extension: what mkdocstrings has to know about docstrings of this project.

Griffe, which reads the sources for the API reference, takes the fields of a dataclass for
parameters and those of a NamedTuple not; and it takes an example that stands outside an
``Examples:`` section for running text.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Attribute, Class, Extension, Function, Object, Parameter, ParameterKind
from griffe import Parameters as SignatureOf

# One example: a line that starts with ">>>", and the lines up to the next empty one.
_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).+)*", re.MULTILINE)


class DocstringExtension(Extension):
    """Gives a NamedTuple its signature, and examples their form."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Puts the examples of a docstring into blocks of code."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)

    def on_class(self, *, cls: Class, **_: Any) -> None:
        """Gives a NamedTuple the signature that its fields make."""
        if not any(str(base).endswith("NamedTuple") for base in cls.bases):
            return
        kind = ParameterKind.positional_or_keyword
        fields = [
            Parameter(field.name, annotation=field.annotation, kind=kind, default=field.value)
            for field in cls.members.values()
            if isinstance(field, Attribute) and field.annotation is not None
        ]
        signature = SignatureOf(Parameter("self", kind=kind), *fields)
        cls.set_member("__init__", Function("__init__", parameters=signature, parent=cls))
