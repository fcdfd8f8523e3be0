"""The rows of the fault table in docs/faults.md."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def faults() -> list[tuple[str, str]]:
    """(fault, what happened) of each `pytest.mark.fault` in the tests."""
    nodes = (
        node
        for path in sorted(TESTS.rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf8")))
    )
    return [
        tuple(map(ast.literal_eval, node.args))
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault"
    ]


def fault_row(fault: str, happened: str) -> str:
    """A row of the fault table in docs/faults.md."""
    return f"| {fault} | {happened} | nothing |"
