"""What does exact guarding of a stream cost and delay, beside the naive ways?

    python -m benchmarks.guard_stream [--quick] [--json]

Answers are made here (seeded): sentences of a support desk with invented personal data and keys in some of them, cut
into chunks of four characters. PII and secrets are both redacted, so that every answer runs to its end. Ways:
- pilothouse: hold back only what could still match.
- rescan: search the whole text so far again at each chunk with the same compiled patterns and checks, and buffer the
  whole answer until it is complete (the only naive way that leaks nothing).
- per chunk: search each chunk alone. Cheap, holds nothing, and leaks what a border cuts.
Rounds alternate; costs are medians over rounds of process CPU time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable
from time import process_time
from typing import Any

from pilothouse.core.project.schema import Guard, Rule
from pilothouse.guard import plants
from pilothouse.guard.policy import compile_policy
from pilothouse.guard.stream import Program, Scanner, compile_program, redact

CHUNK = 4
POLICY = Guard(
    rules=(
        Rule(detector="pii", on=("output",), action="redact"),
        Rule(detector="secrets", on=("output",), action="redact"),
    )
)
SENTENCES = (
    "Thank you for writing to us about your trip to Lisbon on 14 March.",
    "A change of the name costs 45 euros up to two days before the flight; later it is not possible.",
    "Your bag may weigh 23 kg, and a second one costs $60 if you book it online.",
    "Please have your booking reference, six letters or digits such as QX7P2M, at hand.",
    "We refund the full fare within 24 hours, and after that only the taxes of 38.20.",
    "The desk in terminal 2 is open from 5:30 to 22:00, every day of the week.",
    "Flights PH 204 and PH 311 leave from gate B12; boarding ends 20 minutes before.",
    "If you need help at the airport, tell us 48 hours before, so that somebody can meet you.",
)
Run = Callable[[list[str]], tuple[str, list[int]]]


def answers(count: int, seed: int = 7) -> tuple[list[str], list[plants.Plant]]:
    """Answers of 3 to 12 sentences, and what is planted in a quarter of them."""
    rng = random.Random(seed)
    secret = plants.make(["email", "phone", "card", "iban", "github_token", "openai_key"], count // 4, seed)
    texts = []
    for number in range(count):
        parts = rng.choices(SENTENCES, k=rng.randint(3, 12))
        if number < len(secret):
            parts.insert(rng.randrange(len(parts)), secret[number].text)
        texts.append(" ".join(parts))
    return texts, secret


def program() -> Program:
    """The policy's patterns, as the policy compiles them."""
    rules = compile_policy(POLICY).rules
    compiled = compile_program([(rule.detector.stream.patterns, False, True) for rule in rules])  # type: ignore[union-attr]
    assert compiled is not None
    return compiled


def exact(compiled: Program) -> Run:
    """Ours."""

    def run(chunks: list[str]) -> tuple[str, list[int]]:
        scanner, out, held = Scanner(compiled), [], []
        for chunk in chunks:
            out.append(scanner.feed(chunk)[0])
            held.append(scanner.held)
        out.append(scanner.feed("", final=True)[0])
        return "".join(out), held

    return run


def rescan(compiled: Program) -> Run:
    """The whole text again at each chunk; nothing shown before the end."""

    def run(chunks: list[str]) -> tuple[str, list[int]]:
        text, shown, held = "", "", []
        for chunk in chunks:
            text += chunk
            shown = redact(compiled, text)[0]
            held.append(len(text))
        return shown, held

    return run


def per_chunk(compiled: Program) -> Run:
    """Each chunk alone."""

    def run(chunks: list[str]) -> tuple[str, list[int]]:
        return "".join(redact(compiled, chunk)[0] for chunk in chunks), [0] * len(chunks)

    return run


def compare(*, quick: bool) -> dict[str, Any]:
    """Every way over the same answers."""
    texts, planted = answers(60 if quick else 240)
    rounds = 3 if quick else 7
    pieces = [[t[i : i + CHUNK] for i in range(0, len(t), CHUNK)] for t in texts]
    chunks = sum(map(len, pieces))
    compiled = program()
    ways: dict[str, Run] = {"pilothouse": exact(compiled), "rescan": rescan(compiled), "per_chunk": per_chunk(compiled)}
    cost: dict[str, list[float]] = {name: [] for name in ways}
    result: dict[str, Any] = {}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = process_time()
            done = [way(p) for p in pieces]
            spent = (process_time() - began) / chunks * 1e6
            if number:
                cost[name].append(spent)
                continue
            held = sorted(h for _, each in done for h in each)
            out = "\n".join(text for text, _ in done)
            tokens = [-(-h // CHUNK) for h in held]
            result[name] = {
                "held_tokens_mean": statistics.fmean(tokens),
                "held_tokens_p99": tokens[int(0.99 * len(tokens))],
                "held_characters_max": held[-1],
                "leaked": sum(plants.shows(p, out) for p in planted),
                "equal_to_whole_text": all(
                    text == redact(compiled, t)[0] for t, (text, _) in zip(texts, done, strict=True)
                ),
            }
    for name, spent_all in cost.items():
        result[name]["us_per_chunk"] = {
            "median": statistics.median(spent_all),
            "min": min(spent_all),
            "max": max(spent_all),
        }
    ours = result["pilothouse"]["us_per_chunk"]["median"]
    return {
        "benchmark": "guard_stream",
        "answers": len(texts),
        "chunks": chunks,
        "planted": len(planted),
        "rounds": rounds,
        "ways": result,
        "ratio": result["rescan"]["us_per_chunk"]["median"] / ours,
        "us_per_chunk": ours,
        "held_tokens_mean": result["pilothouse"]["held_tokens_mean"],
        "held_tokens_p99": result["pilothouse"]["held_tokens_p99"],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 60 answers instead of 7 of 240")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    result = compare(quick=given.quick)
    if given.json:
        print(json.dumps(result))
        return
    print(f"{result['answers']} answers, {result['chunks']} chunks, {result['planted']} planted values")
    for name, way in result["ways"].items():
        cost = way["us_per_chunk"]
        print(
            f"{name:11s} {cost['median']:8.1f} µs a chunk ({cost['min']:.1f}–{cost['max']:.1f})  held tokens mean "
            f"{way['held_tokens_mean']:.1f} p99 {way['held_tokens_p99']}  leaked {way['leaked']}"
        )
    print(f"rescanning costs {result['ratio']:.1f} times as much")


if __name__ == "__main__":
    main()
