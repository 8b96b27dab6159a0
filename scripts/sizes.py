"""Print the ten largest modules; fail when one exceeds 400 lines or the median exceeds 150 (docs/decisions.md)."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

LARGEST, MEDIAN = 400, 150


def main() -> int:
    """Exit code 1 when the house has grown too large a room."""
    root = Path(__file__).resolve().parent.parent / "src"
    sizes = {p.relative_to(root): len(p.read_text(encoding="utf-8").splitlines()) for p in root.rglob("*.py")}
    sizes = {p: n for p, n in sizes.items() if p.name != "__init__.py"}
    median = statistics.median(sizes.values())
    for path, lines in sorted(sizes.items(), key=lambda item: -item[1])[:10]:
        print(f"{lines:5d}  {path}")
    print(f"{len(sizes)} modules, {sum(sizes.values())} lines, median {median:g}")
    too_large = [str(p) for p, n in sizes.items() if n > LARGEST]
    if too_large or median > MEDIAN:
        print(f"too large: {', '.join(too_large) or f'median {median:g} > {MEDIAN}'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
