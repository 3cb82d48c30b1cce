"""Imports point down: who reads a room need not know those above it."""

from __future__ import annotations

import ast
from pathlib import Path

import nas_build

BUILDER = Path(nas_build.__file__).parent
# From the bottom. Modules that are no room of their own are tools of all rooms, at the bottom.
ROOMS = ("yolo_nas", "graph", "int8", "targets", "repository", "pipeline", "cli")


def room_of(path: Path) -> str:
    return path.relative_to(BUILDER).parts[0].removesuffix(".py")


def rank(room: str) -> int:
    return ROOMS.index(room) if room in ROOMS else -1


def imported(path: Path) -> set[str]:
    """Rooms that a module imports from, those inside functions too."""
    depth = len(path.relative_to(BUILDER).parts)
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            rooms |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return rooms


def test_imports_point_down() -> None:
    for path in BUILDER.rglob("*.py"):
        room = room_of(path)
        if room in ("__init__", "samples"):
            continue
        for other in imported(path) - {room}:
            assert rank(other) <= rank(room), f"{path} imports {other}"
