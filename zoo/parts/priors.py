"""Priors that are learned: over sequences of codes, and over latents by a flow or a second VAE."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops import while_loop

from zoo.errors import UserError
from zoo.parts.distributions import bounded_logvar, gaussian_kl, gaussian_log_prob, gaussian_sample, standard_normal
from zoo.parts.flows import Coupling

HEADS = 4


class AutoregressivePrior(nn.Module):
    """p(c_1) p(c_2|c_1) .. p(c_P|c_1 .. c_{P-1}) over P codes out of K, by a small causal transformer.

    Args:
        codes: K.
        positions: P.
        width: Of the transformer, a multiple of its four heads.
        layers: Of the transformer.
    """

    def __init__(self, codes: int, positions: int, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.positions = positions
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.embedding = nn.Embedding(codes, width)
        self.position = nn.Parameter(0.02 * torch.randn(positions, width))
        layer = nn.TransformerEncoderLayer(width, HEADS, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, codes)

    def logits(self, indices: Tensor) -> Tensor:
        """Return logits of the codes at positions 1 .. n + 1 given the first n: `[B, n]` -> `[B, n + 1, K]`."""
        x = torch.cat([self.start.expand(indices.shape[0], -1, -1), self.embedding(indices)], 1)
        x = x + self.position[: x.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return self.head(self.transformer(x, mask, is_causal=True)).float()

    def log_prob(self, indices: Tensor) -> Tensor:
        """Log p of `[B, P]` codes, nats: `[B]`."""
        logits = self.logits(indices[:, :-1])
        return -F.cross_entropy(logits.transpose(1, 2), indices, reduction="none").sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw position by position: int64 `[n, P]`.

        Raises:
            UserError: if the shares that it draws by are no finite numbers.
        """
        device = self.position.device
        if torch.compiler.is_exporting():
            return self._drawn_in_a_loop(torch.rand(n, self.positions, device=device))
        indices = torch.empty(n, self.positions, dtype=torch.long, device=device)
        x = self.start.expand(n, -1, -1)
        seen = [x.new_empty(2, n, HEADS, 0, x.shape[2] // HEADS) for _ in self.transformer.layers]
        for i in range(self.positions):
            shares = self._next_logits(x + self.position[i], seen).softmax(1)
            if not shares.isfinite().all():
                raise UserError(
                    "the learned prior's shares of the codes are not finite, so none can be drawn: its weights are too "
                    "large, damaged or of a run that diverged"
                )
            source = device if generator is None else generator.device
            drawn = torch.multinomial(shares.to(source), 1, generator=generator).to(device)
            indices[:, i : i + 1] = drawn
            x = self.embedding(drawn)
        return indices

    def _next_logits(self, x: Tensor, seen: list[Tensor]) -> Tensor:
        """Return what `logits` has for the newest position, without the work of those before.

        Args:
            x: The newest position's input, `[n, 1, W]`.
            seen: Each layer's keys and values of the positions before, `[2, n, H, i, W/H]`; the newest is appended.
        """
        for i, layer in enumerate(cast("list[nn.TransformerEncoderLayer]", self.transformer.layers)):
            attention = layer.self_attn
            projected = F.linear(layer.norm1(x), attention.in_proj_weight, attention.in_proj_bias)
            query, key, value = projected.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # [n, H, 1, W/H] each
            seen[i] = torch.cat([seen[i], torch.stack([key, value])], 3)
            looked_up = F.scaled_dot_product_attention(query, *seen[i])
            x = x + attention.out_proj(looked_up.transpose(1, 2).flatten(2))
            x = x + layer.linear2(layer.activation(layer.linear1(layer.norm2(x))))
        return self.head(cast("nn.LayerNorm", self.transformer.norm)(x))[:, 0].float()

    def _drawn_in_a_loop(self, uniform: Tensor) -> Tensor:
        """Draw codes by uniform numbers `[n, P]`, as one loop in a graph: int64 `[n, P]`."""

        def more(step: Tensor, indices: Tensor, uniform: Tensor) -> Tensor:
            return step < self.positions

        def draw(step: Tensor, indices: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            here = torch.arange(self.positions, device=indices.device) == step  # [P]
            logits = (self.logits(indices[:, :-1]) * here[:, None]).sum(1)  # [n, K]
            below = logits.softmax(1).cumsum(1)
            u = (uniform * here).sum(1, keepdim=True)
            drawn = (below < u * below[:, -1:]).sum(1, keepdim=True)
            return step + 1, torch.where(here, drawn, indices), uniform.clone()

        start = torch.zeros((), dtype=torch.long, device=uniform.device), torch.zeros_like(uniform, dtype=torch.long)
        return while_loop(more, draw, (*start, uniform))[1]


class FlowPrior(nn.Module):
    """p(z) = N(f(z); 0, I) |det df/dz|, f some coupling steps. Huang et al. 2017, arXiv:1710.02248.

    Args:
        dim: D.
        steps: Coupling steps; every other one moves the even dimensions.
        width: Units in each of their hidden layers.
    """

    def __init__(self, dim: int, steps: int, width: int) -> None:
        super().__init__()
        self.dim = dim
        self.steps = nn.ModuleList(Coupling(dim, width, step % 2) for step in range(steps))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log p(z), nats: `[..., D]` -> `[...]`."""
        log_det = z.new_zeros(z.shape[:-1])
        for step in self.steps:
            z, more = step(z)
            log_det = log_det + more
        return gaussian_log_prob(z) + log_det

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw u ~ N(0, I), and take it back: `[n, D]`."""
        z = standard_normal((n, self.dim), next(self.parameters()).device, generator)
        for step in reversed(self.steps):
            z = step.inverse(z)  # type: ignore[operator]
        return z


class SecondStage(nn.Module):
    """A VAE of latents: p(u) = N(0, I), p(z|u) = N(f(u), gamma I) with gamma learned; u and z in R^D.

    Dai & Wipf 2019, arXiv:1903.05789, section 4. gamma starts at exp(-3): from the paper's 1, a short training does not
    leave the solution that ignores u.

    Args:
        dim: D.
        width: Units in each of two hidden layers.
    """

    def __init__(self, dim: int, width: int = 512) -> None:
        super().__init__()
        self.dim = dim
        self.encoder, self.decoder = _two_hidden(dim, width, 2 * dim), _two_hidden(dim, width, dim)
        self.log_gamma = nn.Parameter(torch.tensor(-3.0))

    def posterior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(u|z), each `[..., D]`."""
        mu, logvar = self.encoder(z).float().chunk(2, dim=-1)
        return mu, bounded_logvar(logvar)

    def loss(self, z: Tensor) -> Tensor:
        """Minus the evidence lower bound of `[B, D]`, in nats, averaged."""
        mu, logvar = self.posterior(z)
        u = gaussian_sample(mu, logvar)
        recon = -gaussian_log_prob(z, self.decoder(u).float(), self.log_gamma)  # [B]
        return (gaussian_kl(mu, logvar) + recon).mean()

    def log_prob_estimate(self, z: Tensor) -> Tensor:
        """Log p(z|u) + log p(u) - log q(u|z) at one u ~ q(u|z), nats: `[..., D]` -> `[...]`; its exp has mean p(z)."""
        mu, logvar = self.posterior(z)
        u = gaussian_sample(mu, logvar)
        log_pz_u = gaussian_log_prob(z, self.decoder(u).float(), self.log_gamma)
        return log_pz_u + gaussian_log_prob(u) - gaussian_log_prob(u, mu, logvar)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw u, then z: `[n, D]`."""
        shape, device = (n, self.dim), self.log_gamma.device
        mean = self.decoder(standard_normal(shape, device, generator))
        return mean + (0.5 * self.log_gamma).exp() * standard_normal(shape, device, generator)


def _two_hidden(inputs: int, width: int, outputs: int) -> nn.Sequential:
    hidden = (nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(width, outputs))
