"""Makes `oci/_config_validator.py` out of `config.schema.json`: `python -m pysandbox.oci.schema.generate [--check]`.

fastjsonschema compiles a schema to Python source. That source imports `decimal` and fastjsonschema itself and
builds an error message for every node it visits; the fast validator only has to say yes or no, so this takes the
messages, the imports and the arguments that carry them out of the syntax tree.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

SCHEMA = Path(__file__).with_name("config.schema.json")
OUTPUT = Path(__file__).parent.parent / "_config_validator.py"

HEADER = '''"""Yes or no to config.json, process.json and resources, quickly; `validate` explains a no.

Generated from schema/config.schema.json by schema/generate.py; do not edit.
"""

# ruff: noqa
# mypy: ignore-errors


class Rejected(Exception):
    """The document does not match the schema."""


'''


class _Slim(ast.NodeTransformer):
    """Messages, `custom_formats`, `name_prefix` and `Decimal` go; function names become short."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def _short(self, name: str) -> str:
        if not name.startswith(self.prefix):
            return name
        rest = name[len(self.prefix) :]
        return "config" if not rest else rest.removeprefix("___definitions_")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.name = self._short(node.name)
        node.args = ast.arguments(posonlyargs=[], args=[ast.arg("data")], kwonlyargs=[], kw_defaults=[], defaults=[])
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise(exc=ast.Name("Rejected", ast.Load()), cause=None)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id.startswith(self.prefix):
            node.func.id = self._short(node.func.id)
            node.args = node.args[:1]
        return node

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        node.elts = [e for e in node.elts if not (isinstance(e, ast.Name) and e.id == "Decimal")]
        return node


def generate(schema: dict[str, object]) -> str:
    """The module's source text. Every definition becomes a function of its lower-case name, the root `config`."""
    import fastjsonschema

    source = fastjsonschema.compile_to_code(schema, use_default=False, use_formats=False, detailed_exceptions=False)
    tree = ast.parse(source)
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    prefix = min((f.name for f in functions), key=len)
    slim = _Slim(prefix)
    tree.body = [slim.visit(f) for f in functions]
    names = [f.name for f in functions]
    if len(set(names)) != len(names):
        raise ValueError("two definitions have the same name in lower case")
    ast.fix_missing_locations(tree)
    text = ast.unparse(tree)
    for leftover in ("custom_formats", "name_prefix", "Decimal", "REGEX_PATTERNS", "re."):
        if leftover in text:
            raise ValueError(f"the generated source still uses {leftover}")
    return HEADER + text + "\n"


def main(arguments: list[str]) -> int:
    """Writes the module; with `--check`, exit status 1 if the checked-in one is not current."""
    text = generate(json.loads(SCHEMA.read_text()))
    if "--check" in arguments:
        return int(OUTPUT.read_text() != text)
    OUTPUT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
