"""Griffe extension: prepares the docstrings and the options of the package for the API reference."""

import ast
import re
from typing import Any

from griffe import (
    Attribute,
    Docstring,
    Expr,
    ExprCall,
    ExprFormatted,
    ExprJoinedStr,
    ExprKeyword,
    ExprLambda,
    ExprName,
    Extension,
    Module,
    Object,
)


class PackageDocstrings(Extension):
    """Renders doctest examples as code, and options with their default and their help."""

    def __init__(self) -> None:
        """Makes room for the options, whose help may use constants of modules that are not loaded yet."""
        self.helps: list[tuple[Attribute, str | Expr]] = []

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Renames the section `Example:`, because only `Examples:` is read as code, and drops links to other pages."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            # Modules such as vididi_hf.objectives have no page.
            obj.docstring.value = re.sub(r"\[(`[^`]+`)\]\[vididi_hf\.[a-z_]+\.[^\]]+\]", r"\1", text)

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Replaces `option(default=..., help=...)` by the default."""
        call = attr.value
        if isinstance(call, ExprCall) and str(call.function) == "option":
            rules = {rule.name: rule.value for rule in call.arguments if isinstance(rule, ExprKeyword)}
            factory = rules.get("default_factory")
            attr.value = rules.get("default", factory.body if isinstance(factory, ExprLambda) else factory)
            self.helps.append((attr, rules["help"]))

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Makes the help of each option its docstring."""
        for attr, text in self.helps:
            attr.docstring = Docstring(_text(text, pkg), parent=attr)


def _text(value: Any, package: Module) -> str:
    """The text of a literal, an f-string or a constant. Other expressions are shown as code."""
    if isinstance(value, str):
        return str(ast.literal_eval(value))
    if isinstance(value, ExprJoinedStr):
        return "".join(part if isinstance(part, str) else _text(part, package) for part in value.values)
    if isinstance(value, ExprFormatted):
        return _text(value.value, package)
    if isinstance(value, ExprName) and isinstance(
        target := package.modules_collection[value.canonical_path], Attribute
    ):
        return _text(target.value, package)
    return f"`{value}`"
