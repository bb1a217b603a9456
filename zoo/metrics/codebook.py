"""How a discrete latent uses its codes, over test images, 10,000 at most."""

from __future__ import annotations

import torch

from zoo.data import some
from zoo.errors import DoesNotApply
from zoo.families.discrete import code_counts
from zoo.metrics.core import Score, Subject, register_metric
from zoo.parts.quantizers import perplexity

POINTS = 10_000


@register_metric("codebook", "how many of a discrete latent's codes are used, and how evenly")
@torch.no_grad()
def codebook(subject: Subject) -> dict[str, Score]:
    """Rows codebook_usage, codebook_dead and codebook_perplexity. Van den Oord et al. 2017, arXiv:1711.00937.

    Usage is the share of the codes that occur at all, dead are those that don't; perplexity is exp of the entropy of
    their shares, in nats: the number of codes if all occur alike. Of several codebooks, each has its own perplexity,
    and the mean is reported.

    Raises:
        UserError: if the variant's latent is not discrete.
    """
    model, test = subject.model, subject.data.test
    if not model.codebook_size:
        raise DoesNotApply(f"{subject.config.model.name!r} has no codebook: its latent is continuous")
    images = some(test, POINTS)
    parts = {number: model.indices(batch.x, batch.y) for number, batch in subject.batches(images)}
    indices = subject.gather(parts)  # [N, P]
    counts = code_counts(indices, model.codebook_size, model.codebooks)  # [codebooks, codes]
    used = counts > 0
    books = f"{model.codebooks} x " if model.codebooks > 1 else ""
    protocol = f"of {books}{model.codebook_size} codes at {indices.shape[1]} positions"
    return {
        "codebook_usage": Score(used.double().mean().item(), "", None, f"share that occurs {protocol}", len(indices)),
        "codebook_dead": Score((~used).sum().item(), "", None, f"that never occur, {protocol}", len(indices)),
        "codebook_perplexity": Score(
            perplexity(counts).mean().item(), "", None, f"exp of the entropy of shares, {protocol}", len(indices)
        ),
    }
