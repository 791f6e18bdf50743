"""Griffe extension: prepares the docstrings and the options of the package for the API reference."""

import ast
import re
from typing import Any

from griffe import Attribute, Docstring, ExprCall, ExprKeyword, ExprLambda, ExprName, Extension, Module, Object


class PackageDocstrings(Extension):
    """Renders doctest examples as code, and options with their default and their help."""

    def __init__(self) -> None:
        """Makes room for options whose help is a constant of another module."""
        self.constants: list[tuple[Docstring, str]] = []

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Renames the section `Example:`, because only `Examples:` is read as code, and drops links to other pages."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            # Modules such as vididi_hf.objectives have no page.
            obj.docstring.value = re.sub(r"\[(`[^`]+`)\]\[vididi_hf\.[a-z_]+\.[^\]]+\]", r"\1", text)

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Replaces `option(default=..., help=...)` by the default, and takes the help as the docstring."""
        call = attr.value
        if not isinstance(call, ExprCall) or str(call.function) != "option":
            return
        rules = {rule.name: rule.value for rule in call.arguments if isinstance(rule, ExprKeyword)}
        factory = rules.get("default_factory")
        attr.value = rules.get("default", factory.body if isinstance(factory, ExprLambda) else factory)
        attr.docstring = attr.docstring or Docstring(_plain(str(rules["help"])), parent=attr)
        if isinstance(rules["help"], ExprName):
            self.constants.append((attr.docstring, rules["help"].canonical_path))

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Looks up the constants, now that all modules are loaded."""
        for docstring, path in self.constants:
            docstring.value = ast.literal_eval(str(pkg.modules_collection[path].value))


def _plain(text: str) -> str:
    """Removes the quotes of a string literal, and the braces and the prefix of an f-string."""
    return re.sub(r"\{(.*?)\}", r"`\1`", re.sub(r"^f?(['\"])(.*)\1$", r"\2", text, flags=re.DOTALL))
