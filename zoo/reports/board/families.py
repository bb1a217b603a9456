"""Which family a variant belongs to, as the table in README.md has it: what a page colours rows by."""

from __future__ import annotations

FAMILIES = {
    "plain": ("mlp", "conv", "celeba", "mnist", "vanilla", "conditional"),
    "deterministic": ("ae", "rae_l2", "rae_gp"),
    "disentangling": ("beta", "beta_capacity", "beta_tc", "factor", "dip_i", "dip_ii"),
    "aggregate posterior": ("info", "wae_mmd", "swae", "aae"),
    "tighter bounds": ("iwae", "miwae", "ciwae", "piwae"),
    "priors": ("vamp", "flow_prior", "two_stage"),
    "posteriors": ("iaf", "planar", "hyperspherical", "ladder", "eq"),
    "discrete": ("vq", "rvq", "lfq", "bsq", "fsq", "categorical"),
    "likelihoods": ("sigma", "logcosh", "ms_ssim", "continuous_bernoulli", "logistic_mixture"),
    "adversarial": ("vae_gan", "kl_gan", "vqgan"),
}
OTHER = "other"  # a plugin's
_OF = {variant: name for name, variants in FAMILIES.items() for variant in variants}


def family(variant: str) -> str:
    """Return the family of a registered name."""
    return _OF.get(variant, OTHER)
