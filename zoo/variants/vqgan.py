"""VQGAN: codes, a perceptual distance and a discriminator of patches. Esser et al. 2021, arXiv:2012.09841, section 3.

    fidelity = -log p(x|e) + `perceptual_weight` C H W d(x, x~)
    loss = fidelity + |sg[z] - e|^2 + `commitment` |z - sg[e]|^2 + `gan_weight` w L_adv(x~)
    w = |grad fidelity| / (|grad L_adv| + 1e-4), by the decoder's last layer, at most 10^4 C H W
    discriminator/loss = (relu(1 - D(x)) + relu(1 + D(x~))) / 2 + `r1` |grad_x D(x)|^2 / 2
    prior/loss = -log p(codes)

e is the code nearest to z, for each position of a grid, x~ the decoded codes; D judges patches, and L_adv = -D(x~). d
compares features of a network trained on ImageNet. As in `vq`, codes follow their vectors by a moving average, unless
`codebook: gradient` has them learn by the second term; the prior over codes, which samples are drawn from, is a causal
transformer and the second player. All options of `vq` are there: gradients by rotation, one map for all codes. On net
`ldm` give `z_channels` as many as `dim`, as the authors do (256): of fewer, only so many of a code's dimensions count.

Logs:
    perceptual: d, before its weight; where it has one.
    fooled: L_adv, before its weights.
    adaptive_weight: w.
    commitment: |z - sg[e]|^2, before its weight.
    codebook: |sg[z] - e|^2, of a learned codebook.
    perplexity: of the codes used in the batch; `codes` if all are used alike.
    usage: share of the codes that the batch uses.
    prior/loss: minus log p(codes) under the learned prior, nats per image.
    discriminator/loss: what the discriminator minimises, without `r1` 1 (of "logistic" log 2) if it can't tell; 0
        before the game begins.
    discriminator/r1: half the squared gradient of its logit at images; where `r1` is not 0.

Departs from the paper: the features are MobileNetV2's, not those of LPIPS over VGG, and off by default, since their
weights are a file of their own; their weight is 1 in the paper. Terms are sums over pixels and over codes, where the
authors' code takes means of each; the codebook follows averages, and codes that nobody uses begin anew; the prior is
small, and trained along with the codes. Commitment weighs 1, as in the paper and, by the order of its terms, in the
authors' code. The 1e-4 is that code's, the paper has 1e-6. The net has attention in the middle alone; images end in the
activation of their range; the discriminator has GroupNorm and torch's initial weights, not N(0, 0.02^2); the game
begins at a share of the run; of "logistic", the decoder minimises softplus(-D). R1 is an option of ours.
"""

from torch import Tensor

from zoo.base import Batch, register
from zoo.families.adversarial import PatchGame
from zoo.variants.vq import VQVAE


@register("vqgan", net="ldm", recon="l1", gan_weight=0.8, commitment=1.0)
class VQGAN(PatchGame, VQVAE):
    """A grid of codes; errors, features and patches are compared."""

    players = ("vae", "prior", "discriminator")
    settled = VQVAE.settled
    batch_terms = (*PatchGame.batch_terms, *VQVAE.batch_terms)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return what `vq` does, fooled, adaptive_weight, and perceptual if it has a weight."""
        z, e, decoded, indices = self.coded(batch.x)
        logits = self.logits(decoded)
        recon, images = self.likelihood.nll(logits, batch.x), self.likelihood.mean(logits)  # [B], [B, C, H, W]
        distance = self.seen(images, batch.x)  # [B]
        commitment = (z - e.detach()).square().sum((1, 2)).mean()
        fidelity = (recon + self.perceptual_weight * self.image.pixels * distance).mean()
        fooled = self.fooled(images)
        weight = self.balanced(fidelity, fooled)
        loss = fidelity + self.commitment * commitment + self.gan_weight * self.started() * weight * fooled
        rate = -self.prior.log_prob(indices).detach()  # [B]
        terms = {"fooled": fooled, "adaptive_weight": weight, "commitment": commitment}
        if self.perceptual_weight:
            terms["perceptual"] = distance.mean()
        if self.quantizer.learned:
            terms["codebook"] = (z.detach() - e).square().sum((1, 2)).mean()
            loss = loss + terms["codebook"]
        return {"loss": loss, **self.elbo_terms(recon, rate), **self.code_terms(indices), **terms}
