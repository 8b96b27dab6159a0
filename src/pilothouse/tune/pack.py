"""How are the rows of one step laid out for the model? In one sequence: the prefix they share once, then each rest.

Rows of a project begin alike (the system prompt, the template's header). A batch is laid out as
[shared prefix][rest of row 1][rest of row 2]…, with an attention mask by which a rest sees the prefix and itself, and
positions that go on from the prefix in each rest. Causal attention makes this exact: every token has the same
predecessors as in a row of its own, and gradients add up as they would. It spares padding and the prompts' common part;
and the output head runs only on positions whose next token is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pilothouse.tune.rows import Encoded

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Pack:
    """Inputs of one forward pass. keep: positions that predict; targets: what comes next; owner: which row it is of."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    keep: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor


def shared(rows: Sequence[Encoded]) -> int:
    """Length of the prefix that all rows share, at most one token short of the shortest prompt.

    One short, because the prompt's last token predicts the first learnt one, so each row needs its own.
    """
    limit = min(row.start for row in rows) - 1
    first = rows[0].ids
    for i in range(max(limit, 0)):
        if any(row.ids[i] != first[i] for row in rows):
            return i
    return max(limit, 0)


def pack(rows: Sequence[Encoded], device: Any = "cpu") -> Pack:
    """Lay out the rows of one batch."""
    import torch

    prefix = shared(rows) if len(rows) > 1 else 0
    ids, positions, segment = list(rows[0].ids[:prefix]), list(range(prefix)), [-1] * prefix
    keep: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    for number, row in enumerate(rows):
        offset = len(ids) - prefix
        keep += range(offset + row.start - 1, offset + len(row.ids) - 1)
        targets += row.ids[row.start :]
        owner += [number] * row.learnt
        ids += row.ids[prefix:]
        positions += range(prefix, len(row.ids))
        segment += [number] * (len(row.ids) - prefix)
    at = torch.arange(len(ids))
    part = torch.tensor(segment)
    mask = (at[:, None] >= at[None, :]) & ((part[:, None] == part[None, :]) | (part[None, :] == -1))
    tensors = (
        torch.tensor([ids]),
        torch.tensor([positions]),
        mask[None, None],
        *map(torch.tensor, (keep, targets, owner)),
    )
    return Pack(*(tensor.to(device) for tensor in tensors))


def losses(model: Any, batch: Pack) -> torch.Tensor:
    """Negative log-likelihood of each learnt token, in nats (fp32), in the order of `batch.targets`."""
    import torch

    logits = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
        logits_to_keep=batch.keep,
    ).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none")


def row_losses(model: Any, rows: Sequence[Encoded], *, packed: bool) -> list[float]:
    """Mean loss of each row's learnt tokens, without gradients."""
    import torch

    found: list[float] = []
    with torch.no_grad():
        for batch in [rows] if packed else [[row] for row in rows]:
            laid = pack(batch, model.device)
            each = losses(model, laid)
            found += [float(each[laid.owner == i].mean()) for i in range(len(batch))]
    return found


def is_exact(model: Any, rows: Sequence[Encoded], *, tolerance: float = 0.02) -> bool:
    """Does this architecture give packed rows the losses that they have alone? (Recurrent layers do not.)"""
    few = sorted(rows, key=lambda row: len(row.ids))[:3]
    together, alone = row_losses(model, few, packed=True), row_losses(model, few, packed=False)
    return all(abs(a - b) <= tolerance * max(1.0, abs(b)) for a, b in zip(together, alone, strict=True))
