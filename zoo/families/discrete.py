"""Variants whose latent is a grid of codes out of a finite set, with a learned prior over them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from zoo import ranks
from zoo.base import Batch, ImageSpec
from zoo.errors import UserError
from zoo.families.latent import LatentVAE
from zoo.nets.batch_norm import unremembered
from zoo.parts.priors import AutoregressivePrior
from zoo.parts.quantizers import (
    FiniteScalarQuantizer,
    NearestQuantizer,
    ResidualQuantizer,
    SignQuantizer,
    perplexity,
    sign_entropy,
    sign_shares,
    usage_counts,
)

Bits = Annotated[int, Field(gt=0, le=16)]
GroupOfBits = Annotated[int, Field(gt=0, le=12)]

PHOTOGRAPH = 32  # pixels of a side, in colour: from there on images are taken for photographs
LEAST_SHARE = 1e-12
LEAST_GRID = 8  # positions of a side that a photograph needs


class CodePosterior:
    """A point: every image has its codes, with probability 1.

    Args:
        point: The codes side by side, `[B, P D]`.
    """

    logvar = None

    def __init__(self, point: Tensor) -> None:
        self.point = point

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the codes k times, with log-probability 0."""
        return self.point.expand(k, -1, -1), self.point.new_zeros(k, len(self.point))


class CategoricalPosterior:
    """Independent categories, `[B, P, K]` log-probabilities; latents are one-hot and side by side, `[B, P K]`."""

    logvar = None

    def __init__(self, log_probs: Tensor) -> None:
        self.log_probs = log_probs

    def one_hot(self, indices: Tensor) -> Tensor:
        """int64 `[..., P]` -> `[..., P K]`."""
        return F.one_hot(indices, self.log_probs.shape[2]).to(self.log_probs.dtype).flatten(-2)

    @property
    def point(self) -> Tensor:
        """The likeliest categories."""
        return self.one_hot(self.log_probs.argmax(2))

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        """Draw k latents per image, with their log-probability; no gradient flows through them."""
        noise = torch.empty(k, *self.log_probs.shape, device=self.log_probs.device).exponential_()
        indices = (self.log_probs - noise.log()).argmax(-1)  # [k, B, P], the Gumbel-max trick
        log_q = self.log_probs.expand(k, -1, -1, -1).gather(3, indices[..., None]).sum((2, 3))  # [k, B]
        return self.one_hot(indices), log_q


def code_counts(indices: Tensor, codes: int, codebooks: int = 1) -> Tensor:
    """Count how often each code of each codebook occurs: int64 `[..., P]` -> `[codebooks, codes]`.

    Args:
        indices: Below `codes`; the codebooks take turns over the positions.
        codes: How many each codebook has.
        codebooks: How many there are.
    """
    turns = torch.arange(indices.shape[-1], device=indices.device) % codebooks
    return usage_counts(turns * codes + indices, codebooks * codes).view(codebooks, codes)


class CodeVAE(LatentVAE):
    """P codes of D numbers per image; a second player, the prior, learns which codes go together.

    On a net with a feature map each of its positions has a code. The latent z is all codes side by side, `[B, P D]`. A
    subclass sets `codebook_size` before it builds the prior, and writes `indices_of`, `codes_at`, `posterior`, `loss`.

    Args:
        image: The data's shape and range.
        dim: D, of each code.
        positions: P, on a net without a feature map.
        **options: Those of `LatentVAE`.
    """

    players: ClassVar[tuple[str, ...]] = ("vae", "prior")
    settled: ClassVar[tuple[str, ...]] = ("beta", "reduction")
    batch_terms: tuple[str, ...] = ("perplexity", "usage")

    def __init__(self, image: ImageSpec, *, dim: PositiveInt, positions: PositiveInt = 16, **options: Any) -> None:
        super().__init__(image, **options)
        if self.decoder_shape[1:] != self.feature_shape[1:]:
            raise UserError(
                f"the codes of {type(self).__name__} lie where a net's features do, and net {options.get('net')!r} has "
                "another map at its decoder: choose net 'grid', 'vanilla' or 'resnet'"
            )
        channels, *grid = self.feature_shape
        self.dim = dim
        self.positions = grid[0] * grid[1] if grid else positions
        self.latent_dim = self.positions * dim
        if grid:
            self.remarks = self._remarks(grid, image)
            self.to_codes: nn.Module = nn.Sequential(nn.Conv2d(channels, dim, 1), nn.Flatten(2))  # [B, D, P]
            self.from_latent = nn.Sequential(
                nn.Unflatten(1, (self.positions, dim)),
                _Transpose(),
                nn.Unflatten(2, grid),
                nn.Conv2d(dim, self.decoder_shape[0], 1),
            )
        else:
            self.to_codes = nn.Sequential(nn.Linear(channels, self.latent_dim), nn.Unflatten(1, (dim, self.positions)))
            self.from_latent = self.features_from(self.latent_dim)

    def _remarks(self, grid: list[int], image: ImageSpec) -> tuple[str, ...]:
        """Say where the codes of a photograph are too few."""
        if image.channels < 3 or min(image.height, image.width) < PHOTOGRAPH or min(grid) >= LEAST_GRID:
            return ()
        return (
            f"has {grid[0]} x {grid[1]} codes for a photograph of {image.height} x {image.width} pixels, whose parts "
            f"will not fit together: choose a net that leaves {LEAST_GRID} x {LEAST_GRID} or more, as model.net=grid "
            "with model.factor=4 or 8",
        )

    def build_prior(self, codes: int) -> None:
        """Set the codebook's size and the prior over codes."""
        self.codebook_size = codes
        self.prior = AutoregressivePrior(codes, self.positions)

    def vectors(self, x: Tensor) -> Tensor:
        """Return what is to be quantised, `[B, P, D]`."""
        return self.to_codes(self.encoder(x)).transpose(1, 2).float()

    @abstractmethod
    def indices_of(self, z: Tensor) -> Tensor:
        """Return the codes of latents: `[..., P D]` -> int64 `[..., P]`."""

    @abstractmethod
    def codes_at(self, indices: Tensor) -> Tensor:
        """Return the vectors of codes: int64 `[B, P]` -> `[B, P, D]`."""

    @torch.no_grad()
    def indices(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return each image's codes, int64 `[B, P]`."""
        return self.indices_of(self.posterior(x).point)

    def log_prior(self, z: Tensor) -> Tensor:
        """Log p of the latents' codes under the learned prior, nats: `[..., P D]` -> `[...]`."""
        indices = self.indices_of(z)
        return self.prior.log_prob(indices.flatten(0, -2)).view(z.shape[:-1])

    def sample_prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes from the learned prior: `[n, P D]`."""
        return self.codes_at(self.prior.sample(n, generator)).flatten(1)

    def prior_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return minus the log-probability of a draw of the batch's codes, nats per image."""
        with torch.no_grad(), unremembered(self):
            codes = self.indices_of(self.posterior(batch.x).draw(1)[0][0])  # [B, P]
        return {"loss": -self.prior.log_prob(codes).mean()}

    def code_terms(self, indices: Tensor) -> dict[str, Tensor]:
        """Return usage and perplexity of the batch's codes `[B, P]`; in training, of the batches of all processes."""
        counts = code_counts(indices, self.codebook_size, self.codebooks)
        counts = ranks.summed(counts) if self.training else counts
        return {"perplexity": perplexity(counts).mean(), "usage": (counts > 0).float().mean()}


class QuantisedVAE(CodeVAE):
    """Codes by rounding: the posterior is a point. A subclass sets `quantizer`, of `zoo.parts.quantizers`."""

    stochastic = False
    settled = (*CodeVAE.settled, "warmup", "free_bits")  # a point's KL is its code length, which the prior alone learns
    quantizer: NearestQuantizer | FiniteScalarQuantizer | ResidualQuantizer | SignQuantizer

    def indices_of(self, z: Tensor) -> Tensor:
        """Return the codes of latents: `[..., P D]` -> int64 `[..., P]`."""
        return self.quantizer.index_of(z.unflatten(-1, (self.positions, self.dim)))

    def codes_at(self, indices: Tensor) -> Tensor:
        """Return the vectors of codes: int64 `[B, P]` -> `[B, P, D]`."""
        return self.quantizer.codes_at(indices)

    def posterior(self, x: Tensor, y: Tensor | None = None) -> CodePosterior:
        """Return the codes of a batch."""
        return CodePosterior(self.quantizer(self.vectors(x))[0].flatten(1))


class SignVAE(QuantisedVAE):
    """Codes that are the signs of k numbers, 2^k in all. A subclass sets `quantizer`, and how sure a sign is.

    Args:
        image: The data's shape and range.
        bits: k.
        group: Bits whose average joint distribution is counted exactly; over several groups entropies are added up,
            which bounds that of all bits from above. Each vector costs 2^group numbers.
        **options: Those of `CodeVAE`.
    """

    settled = (*QuantisedVAE.settled, "dim")
    batch_terms = (*QuantisedVAE.batch_terms, "loss", "codebook_entropy")
    quantizer: SignQuantizer

    def __init__(self, image: ImageSpec, *, bits: Bits = 8, group: GroupOfBits = 9, **options: Any) -> None:
        super().__init__(image, dim=bits, **options)
        self.group = group
        self.build_prior(2**bits)

    def entropies(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return P E[H(q(c|x))] and P H(E[q(c|x)]), nats per image, the mean over images, positions and processes.

        Args:
            logits: Log odds of each bit of q(c|x), `[B, P, k]`.
        """
        flat = logits.flatten(0, 1)
        shares = [self.across_ranks(each[None]).mean(0) for each in sign_shares(flat, self.group)]
        # At a share of 0 the entropy's gradient is infinite.
        spread = torch.stack([torch.special.entr(each.clamp(min=LEAST_SHARE)).sum() for each in shares]).sum()
        return self.positions * sign_entropy(flat).mean(), self.positions * spread


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)
