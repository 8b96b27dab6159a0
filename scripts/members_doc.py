"""Write docs/members.md: every member of every kind, from the modules' own first lines; `--check` compares."""

from __future__ import annotations

import sys
from pathlib import Path

from pilothouse.core import registry

TARGET = Path(__file__).resolve().parent.parent / "docs" / "members.md"
KINDS = ("sources", "loaders", "methods", "metrics", "probes", "detectors", "engines", "arrivals")
HEAD = """# Members: what can be named in pilothouse.yaml

Made by `python scripts/members_doc.py`; `make check` keeps it true. One file a member;
`pilothouse list KIND` shows the same.
"""


def main() -> int:
    """Write, or compare with --check."""
    lines = [HEAD]
    for kind in KINDS:
        lines += [f"## {kind}", "", "| name | what |", "| --- | --- |"]
        for name in registry.modules(kind):
            first = (registry.module(kind, name).__doc__ or "").strip().partition("\n")[0]
            lines.append(f"| `{name}` | {first} |")
        lines.append("")
    text = "\n".join(lines)
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
            print("docs/members.md is out of date; run: python scripts/members_doc.py", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
