"""A section of the documentation as one bash script, typed as its reader would type it."""

from __future__ import annotations

from tests.docs.blocks import Section

# curl says yes to any answer; here an answer that is an error ends the script, unless the page says it is one.
_BEGIN = """set -euo pipefail
SERVE=
end() { code=$?; [ -z "$SERVE" ] || { kill -TERM "$SERVE" 2>/dev/null || true; wait "$SERVE" || true; }; exit $code; }
trap end EXIT
curl() { command curl -sS --fail-with-body --max-time 120 "$@"; }
refused() { if curl "$@"; then echo "this was not refused: $*" >&2; exit 1; else [ $? -eq 22 ]; fi; }
"""
_WAIT = """SERVE=$!
for _ in $(seq 240); do
  kill -0 "$SERVE" || exit 1
  command curl -fsS -o answer.json http://127.0.0.1:8080/healthz 2>/dev/null && break
  sleep 0.5
done
"""


def script(section: Section, serve: str, port: int) -> str:
    """serve: what is run for `pilothouse serve`; port: taken for the pages' 8080."""
    lines = [_BEGIN]
    for block in section.blocks:
        if block.language == "python":
            lines.append(f"python - <<'END'\n{block.text}END\n")
        elif block.language == "sh" and block.word == "served":
            lines.append(f"{block.text.rstrip()} &\n{_WAIT}")
        elif block.language == "sh" and block.word == "refused":
            lines.append(block.text.replace("curl ", "refused "))
        elif block.language == "sh":
            lines.append(block.text)
    return "".join(lines).replace("pilothouse serve", serve).replace("8080", str(port))
