"""Errors are planted where authors make them, in no file, and found by tests that are there to find them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.mutants import mutants

SOURCE = """
from zoo import Batch, GaussianVAE, register
from zoo.parts.distributions import gaussian_kl

@register("planted")
class Planted(GaussianVAE):
    settled = ("warmup", "free_bits", "reduction")

    def __init__(self, image, **options):
        super().__init__(image, **options)
        self.half = 1 - 0.5

    def loss(self, batch: Batch):
        out = self(batch.x)
        recon, kl = self.likelihood.nll(out.logits, batch.x), gaussian_kl(out.mu, out.logvar)  # β·KL
        return {"loss": (recon + self.kl_weight() * kl).mean(), **self.elbo_terms(recon, kl)}
"""
OTHERS = """
def errors(z, mu, logvar):
    é = -z.sum(1) - mu.mean(0)
    return reparameterize(mu, logvar) + é.detach() * logvar.exp() + out.z
"""


def test_each_mutant_is_python_and_differs_from_the_file_in_one_place() -> None:
    for source in (SOURCE, OTHERS):
        found = mutants(source)
        texts = [mutant.apply(source) for mutant in found]
        assert len({ast.dump(ast.parse(text)) for text in [source, *texts]}) > len(set(texts)) >= len(found) - 1
        for mutant, text in zip(found, texts, strict=True):
            line = source.splitlines()[mutant.line - 1]
            assert mutant.before in line and text.count("\n") == source.count("\n")
            assert text.splitlines()[mutant.line - 1] == line.replace(mutant.before, f"({mutant.after})")


def test_all_kinds_are_planted_and_none_in_init() -> None:
    found = [(mutant.kind, mutant.before, mutant.after) for mutant in mutants(SOURCE) + mutants(OTHERS)]
    for wanted in (
        ("sign turned", "recon + self.kl_weight() * kl", "recon - (self.kl_weight() * kl)"),
        ("term dropped", "recon + self.kl_weight() * kl", "recon"),
        ("factor dropped", "self.kl_weight() * kl", "kl"),
        ("sum for mean", "(recon + self.kl_weight() * kl).mean()", "(recon + self.kl_weight() * kl).sum()"),
        ("gradient cut", "out.logits", "out.logits.detach()"),
        ("arguments swapped", "gaussian_kl(out.mu, out.logvar)", "gaussian_kl(out.logvar, out.mu)"),
        ("sign turned", "-z.sum(1) - mu.mean(0)", "-z.sum(1) + (mu.mean(0))"),
        ("sign turned", "-z.sum(1)", "z.sum(1)"),
        ("wrong axis", "z.sum(1)", "z.sum(0)"),
        ("wrong axis", "mu.mean(0)", "mu.mean(1)"),
        ("mean for a sample", "reparameterize(mu, logvar)", "mu"),
        ("mean for a sample", "out.z", "out.mu"),
        ("gradient let through", "é.detach()", "é"),
        ("logarithm for its number", "logvar.exp()", "logvar"),
    ):
        assert wanted in found
    assert not any("0.5" in before for _, before, _ in found)


TEST = """
import torch
import planted
from zoo import Batch, ImageSpec, create

def test_loss():
    model = create("planted", ImageSpec(1, 8, 8), net="mlp", hidden_dims=[8], beta=3)
    terms = model.loss(Batch(torch.rand(4, 1, 8, 8)))
    assert abs(terms["loss"] - terms["recon"] - 3 * terms["kl"]) < 1e-3
"""


@pytest.mark.slow
def test_a_test_of_the_sum_sees_what_changes_the_sum(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text(SOURCE)
    (tmp_path / "test_planted.py").write_text(TEST)
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("check", "planted.py", "--mutate", "--tests", "test_planted.py")
    seen = {line.split(", ", 1)[1].split(":")[0] for line in out.splitlines() if "  seen  " in line}
    unseen = {line.split(", ", 1)[1].split(":")[0] for line in out.splitlines() if "  UNSEEN  " in line}
    assert code == 1 and seen == {"sign turned", "term dropped", "factor dropped", "sum for mean"}
    assert unseen == {"gradient cut", "arguments swapped"}
    assert (tmp_path / "planted.py").read_text() == SOURCE

    code, out, _ = cli("check", "planted.py", "net=mlp", "hidden_dims=[16]", "--mutate", "latent_dim=3")
    assert code == 0 and out.splitlines()[-1] == "the checks see 9 of 9 planted errors"


def test_tests_that_fail_anyway_tell_nothing(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    plugin, tests = tmp_path / "planted_too.py", tmp_path / "test_it.py"
    plugin.write_text(SOURCE.replace("planted", "planted_too"))
    tests.write_text("def test_loss():\n    assert False\n")
    code, _, err = cli("check", plugin, "--mutate", "--tests", tests)
    assert code == 2 and "its tests fail on" in err and "mend that first" in err
