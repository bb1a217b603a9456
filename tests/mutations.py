"""Plant errors in copies of the zoo, one at a time, and see whether the tests that concern each one fail.

    python -m tests.mutations [--only SUBSTRING] [--jobs N]

Golden losses are left out: they say that a number changed, not that it is wrong. Exit code 1 if an error survives its
tests and nothing says why, or if one is caught of which `survives` says that it can't be.

Each error is tried in a process forked from this one, which has imported what takes long, and in a copy of the project.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
COPIED = ("zoo", "tests", "docs", "configs", "benchmarks", "pyproject.toml", "run.py", "README.md")
LEFT_OUT = ("__pycache__", "results")
GOLDEN = "tests/test_variants.py::test_ten_losses_are_what_they_were"
SECONDS = 600  # that one error's tests may take: an error may make them wait for ever
FORK = multiprocessing.get_context("fork")
# Third-party libraries that tests import; never the zoo, which each process imports from its own copy.
HEAVY = "torch torch._dynamo torchvision torchmetrics.image accelerate hypothesis.strategies yaml matplotlib.pyplot "
HEAVY += "scipy.stats scipy.integrate scipy.optimize sklearn.ensemble sklearn.linear_model sklearn.mixture"
# What an error raises that was not planted well: it is no error of a formula.
CLUMSY = ("SyntaxError", "IndentationError", "NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError")


@dataclass(frozen=True)
class Mutation:
    """An error.

    Attributes:
        file: Where, within `zoo/`.
        old: What stands there, once in the file.
        new: What is put in its place.
        tests: Who should notice, as `variants/test_bounds::test_one_sample_is_the_elbo[iwae]`, within `tests/`.
        survives: Why no test can notice, if none does.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str = ""

    @property
    def what(self) -> str:
        """The error in one line."""
        old, new = (textwrap.shorten(text, 70, placeholder=" …") or "nothing" for text in (self.old, self.new))
        return f"zoo/{self.file}: {old}  ->  {new}"

    @property
    def nodes(self) -> list[str]:
        """The tests, as pytest calls them."""
        return [f"tests/{file}.py::{name}" for file, _, name in (test.partition("::") for test in self.tests)]

    def fault(self) -> str:
        """Say in one sentence what is wrong with this entry, and what to do; "" if nothing is."""
        path = ROOT / "zoo" / self.file
        times = path.read_text(encoding="utf-8").count(self.old) if path.is_file() else 0
        if times != 1:
            return (
                f"tests/mutations.py: {self.old!r} stands {times} times in zoo/{self.file}, and must once: write what "
                "the code now says there, or take the entry out"
            )
        if self.old == self.new:
            return f"tests/mutations.py: the entry {self.old!r} of zoo/{self.file} changes nothing: plant an error"
        for test in self.tests:
            file, _, name = test.partition("::")
            function = name.split("::")[-1].split("[")[0]
            path = ROOT / "tests" / f"{file}.py"
            if not path.is_file() or f"def {function}(" not in path.read_text(encoding="utf-8"):
                return (
                    f"tests/mutations.py: there is no test {test!r}, which should notice an error in zoo/{self.file}: "
                    "name the one that does now"
                )
        return ""


def plant(file: str, old: str, new: str, *tests: str, survives: str = "") -> Mutation:
    """Write one down."""
    return Mutation(file, old, new, tests, survives)


@dataclass(frozen=True)
class Outcome:
    """What became of an error.

    Attributes:
        code: Pytest's.
        first: The first test that failed, and what it raised.
        log: What pytest said.
    """

    code: int
    first: str
    log: str

    @property
    def caught(self) -> bool:
        """Whether a test failed, as it should."""
        return self.code == pytest.ExitCode.TESTS_FAILED and not self.first.endswith(CLUMSY)

    @property
    def survived(self) -> bool:
        """Whether all tests passed."""
        return self.code == pytest.ExitCode.OK


class Witness:
    """A pytest plugin that remembers the first failure."""

    first = ""

    def pytest_exception_interact(self, node: Any, call: Any) -> None:
        """Called by pytest for a test that raised."""
        self.first = self.first or f"{node.name}: {call.excinfo.type.__name__}"


def try_out(mutation: Mutation | None, nodes: list[str]) -> Outcome:
    """Run tests on a copy of the project, with an error planted or without; it spoils its process for all else."""
    with tempfile.TemporaryDirectory(prefix="mutation_") as folder:
        copy = Path(folder) / "copy"
        copy.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
            else:
                shutil.copy2(ROOT / name, copy / name)
        if mutation is not None:
            path = copy / "zoo" / mutation.file
            path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
        _move_to(copy)
        log = Path(folder) / "log"
        with log.open("w") as out:
            for descriptor in (1, 2):
                os.dup2(out.fileno(), descriptor)
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(SECONDS if mutation is not None else 0)
        witness = Witness()
        options = ["-q", "-p", "no:cacheprovider", f"--basetemp={folder}/tests", f"--deselect={GOLDEN}"]
        code = pytest.main([*options, *(["-x"] if mutation is not None else []), *nodes], plugins=[witness])
        signal.alarm(0)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return Outcome(int(code), witness.first, log.read_text(errors="replace"))


def _move_to(copy: Path) -> None:
    """Import zoo and tests from a copy from now on."""
    os.chdir(copy)
    sys.path[:] = [str(copy), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    sys.dont_write_bytecode = True  # an error may leave a file's size and time as they were
    for name in [name for name in sys.modules if name.split(".")[0] in ("zoo", "tests")]:
        del sys.modules[name]


def _give_up(*_: object) -> None:
    raise TimeoutError


def apart(mutation: Mutation | None, nodes: list[str]) -> Outcome:
    """Do it in a process of its own, which takes over what this one has imported."""
    found, finds = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_send, args=(finds, mutation, nodes))
    process.start()
    finds.close()
    try:
        return Outcome(*found.recv())
    except EOFError:
        return Outcome(-1, "its process died", "")
    finally:
        process.join()


def _send(finds: Connection, mutation: Mutation | None, nodes: list[str]) -> None:
    finds.send(astuple(try_out(mutation, nodes)))


def verdict(mutation: Mutation, outcome: Outcome) -> tuple[str, str, bool]:
    """Return one word, the test or the reason behind it, and whether all is as it should be."""
    if outcome.caught and mutation.survives:
        return "caught", f"{outcome.first}: take out its `survives`", False
    if outcome.caught:
        return "caught", outcome.first, True
    if outcome.survived:
        return "SURVIVED", mutation.survives or "write a test that fails on it", bool(mutation.survives)
    return "BROKEN", f"{outcome.first}: its tests did not run, or it breaks more than a formula", False


def main(arguments: list[str] | None = None) -> int:
    """Try all, or some, and say what survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="those with this in their file, code or tests")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    chosen = parser.parse_args(arguments)
    tried = [m for m in MUTATIONS if any(chosen.only in text for text in (m.file, m.old, m.new, *m.tests))]
    if faults := [fault for mutation in tried if (fault := mutation.fault())]:
        print("\n".join(faults))
        return 1
    for name in HEAVY.split():
        importlib.import_module(name)
    started = time.monotonic()
    nodes = sorted({node for mutation in tried for node in mutation.nodes})
    sound = apart(None, nodes)
    if not sound.survived:
        print(f"{sound.log[-5000:]}\nthe tests must pass before an error is planted: {sound.first}")
        return 1
    print(f"{len(nodes)} tests pass on the code as it is ({time.monotonic() - started:.0f} s)", flush=True)
    survived, wrong = 0, []
    with ThreadPoolExecutor(chosen.jobs) as threads:
        outcomes = threads.map(lambda mutation: apart(mutation, mutation.nodes), tried)
        for mutation, outcome in zip(tried, outcomes, strict=True):
            word, why, right = verdict(mutation, outcome)
            log = outcome.log[-2000:] if word == "BROKEN" else ""
            print(f"{word:8} {mutation.what}  [{why}]", log, sep="\n" if log else "", flush=True)
            survived += outcome.survived
            if not right:
                wrong.append(f"{mutation.what}: {why}")
    print(f"\n{survived} of {len(tried)} survived ({time.monotonic() - started:.0f} s)")
    if wrong:
        print("to do:", *wrong, sep="\n  ")
    return int(bool(wrong))


MUTATIONS = (
    # ---- adversarial: which player sees what
    plant(
        "variants/aae.py",
        "F.softplus(-self.critic(out.z).float())",
        "F.softplus(self.critic(out.z).float())",
        "variants/test_adversarial::test_the_critic_of_aae_learns_to_tell_codes_from_the_prior",
    ),
    plant(
        "variants/aae.py",
        "F.softplus(-prior).mean() + F.softplus(coded).mean()",
        "F.softplus(prior).mean() + F.softplus(-coded).mean()",
        "variants/test_adversarial::test_the_critic_of_aae_learns_to_tell_codes_from_the_prior",
    ),
    plant(
        "variants/aae.py",
        "torch.randn_like(z)",
        "torch.rand_like(z)",
        "variants/test_aggregate::test_the_critic_of_aae_is_shown_draws_of_the_prior_and_codes",
    ),
    plant(
        "variants/aae.py",
        "self.weight * fooled",
        "fooled",
        "variants/test_aggregate::test_the_loss_and_its_gradient_weigh_each_term[aae-sum]",
    ),
    plant(
        "variants/factor.py",
        "permute_dims(z[-half:])",
        "permute_dims(z[:half])",
        "variants/test_disentangling::test_the_critic_sees_one_half_as_it_is_and_the_other_permuted",
    ),
    plant(
        "variants/factor.py",
        "F.softplus(-self.critic(joint).float()).mean() + F.softplus(self.critic(product).float())",
        "F.softplus(self.critic(joint).float()).mean() + F.softplus(-self.critic(product).float())",
        "variants/test_disentangling::test_a_critic_that_knows_the_densities_gives_the_total_correlation",
    ),
    plant(
        "variants/factor.py",
        "self.critic(out.z)",
        "self.critic(out.mu)",
        "variants/test_disentangling::test_the_vaes_critic_sees_the_draws_that_are_decoded",
    ),
    plant(
        "variants/factor.py",
        "self.gamma * tc",
        "self.gamma * tc.detach()",
        "variants/test_disentangling::test_total_correlation_enters_the_loss_with_its_weight",
    ),
    plant(
        "variants/factor.py",
        '"betas": (0.5, 0.9)',
        '"betas": (0.9, 0.999)',
        "test_optimizers::test_a_player_has_its_papers_optimizer_unless_the_config_says_otherwise",
    ),
    plant(
        "variants/vae_gan.py",
        "F.softplus(-logits).mean()",
        "F.softplus(logits).mean()",
        "variants/test_adversarial::test_the_decoder_of_vae_gan_fools_with_reconstructions_and_samples",
    ),
    plant(
        "variants/vae_gan.py",
        "torch.cat([out.z.detach(), torch.randn_like(out.z)])",
        "out.z.detach()",
        "variants/test_adversarial::test_the_decoder_of_vae_gan_fools_with_reconstructions_and_samples",
    ),
    plant(
        "variants/vae_gan.py",
        "torch.cat([out.z.detach(),",
        "torch.cat([out.z,",
        "variants/test_adversarial::test_each_term_of_vae_gan_reaches_its_player",
    ),
    plant(
        "variants/vae_gan.py",
        "(batch.x, out.recon, sampled)]",
        "(batch.x, out.recon, out.recon)]",
        "variants/test_adversarial::test_the_discriminators_loss_is_three_cross_entropies",
    ),
    plant(
        "variants/vae_gan.py",
        "nn.GroupNorm(1, layer.num_features)",
        "nn.BatchNorm2d(layer.num_features)",
        "variants/test_adversarial::test_the_discriminator_of_vae_gan_has_no_batch_statistics",
    ),
    plant(
        "variants/vae_gan.py",
        '"name": "rmsprop", "betas": (0.0, 0.9)',
        '"name": "adam", "betas": (0.5, 0.9)',
        "test_optimizers::test_a_player_has_its_papers_optimizer_unless_the_config_says_otherwise",
    ),
    # ---- tokenizers: grids, the net of latent diffusion, the game of patches
    plant(
        "families/latent.py",
        "z[:, :size].unflatten(1, self.shape)",
        "z[:, :size].view(len(z), *self.shape[1:], self.shape[0]).permute(0, 3, 1, 2)",
        "test_grid_latents::test_a_position_comes_back_where_it_was",
        "test_grid_latents::test_labels_are_seen_at_every_position",
    ),
    plant(
        "families/latent.py",
        "return Conv2d(self.feature_shape[0], self.latent_shape[0], 1)",
        "return Conv2d(self.feature_shape[0], self.latent_shape[0], 3, padding=1)",
        "test_grid_latents::test_the_vector_is_the_map_flattened",
    ),
    plant(
        "engine/initial.py",
        "type(part) not in (nn.Linear, Conv2d)",
        "type(part) is not nn.Linear",
        "test_grid_latents::test_initial_weights_are_drawn_for_the_convolutions_too",
    ),
    plant(
        "nets/ldm.py",
        "F.pad(x, (0, 1, 0, 1))",
        "F.pad(x, (1, 0, 1, 0))",
        "test_ldm::test_halving_pads_on_the_right_and_at_the_bottom",
    ),
    plant(
        "nets/ldm.py",
        "return x + self.to_out(h)",
        "return self.to_out(h)",
        "test_ldm::test_attention_is_softmax_of_scaled_products",
    ),
    plant(
        "nets/ldm.py",
        "(self.conv_shortcut(x) if",
        "(x.new_zeros(()) if",
        "test_ldm::test_a_residual_block_is_the_published_one",
    ),
    plant(
        "nets/ldm.py",
        'own[f"to_mu.{part}"], own[f"to_logvar.{part}"] =',
        'own[f"to_logvar.{part}"], own[f"to_mu.{part}"] =',
        "test_ldm::test_the_moments_and_the_image_are_those_of_the_convolutions_by_hand",
    ),
    plant(
        "nets/patches.py",
        "nn.GroupNorm(1, after)",
        "nn.BatchNorm2d(after)",
        "variants/test_tokenizers::test_an_image_is_judged_whatever_else_is_in_the_batch",
    ),
    plant(
        "nets/patches.py",
        "stride = 2 if i < layers else 1",
        "stride = 2",
        "variants/test_tokenizers::test_a_logit_sees_a_patch[3-70]",
    ),
    plant(
        "parts/adversarial.py",
        "F.relu(1 + fake)",
        "F.relu(1 - fake)",
        "variants/test_tokenizers::test_both_games_are_what_their_papers_say",
    ),
    plant(
        "parts/adversarial.py",
        "F.softplus(fake).mean()",
        "F.softplus(-fake).mean()",
        "variants/test_tokenizers::test_both_games_are_what_their_papers_say",
    ),
    plant(
        "parts/adversarial.py",
        "return -fake.mean() if",
        "return fake.mean() if",
        "variants/test_tokenizers::test_both_games_are_what_their_papers_say",
    ),
    plant(
        "parts/adversarial.py",
        ".flatten(1).mean(1)  # [B]",
        ".flatten(1).sum(1)  # [B]",
        "variants/test_tokenizers::test_the_gradient_penalty_of_a_linear_judge_is_its_weights_norm",
    ),
    plant(
        "parts/adversarial.py",
        "norms[0] / (norms[1] + LEAST_NORM)",
        "norms[1] / (norms[0] + LEAST_NORM)",
        "variants/test_tokenizers::test_the_adaptive_weight_is_the_ratio_of_both_gradients_at_the_last_layer[ldm-kl_gan]",
    ),
    plant(
        "parts/adversarial.py",
        "(ranks.summed(gradient.float()) / ranks.count()).norm()",
        "gradient.float().norm()",
        "test_distributed::test_a_batch_shared_out_over_ranks_has_the_whole_batchs_gradient",
    ),
    plant(
        "families/adversarial.py",
        "(recon - low) / (high - low), (x - low)",
        "recon, (x - low)",
        "variants/test_tokenizers::test_the_network_sees_images_in_its_own_range",
    ),
    plant(
        "families/adversarial.py",
        "self.progress >= self.gan_start",
        "self.progress > self.gan_start",
        "variants/test_tokenizers::test_before_its_start_there_is_no_game[kl_gan]",
    ),
    plant(
        "families/adversarial.py",
        'return {"loss": self.started() * loss}',
        'return {"loss": loss}',
        "variants/test_tokenizers::test_before_its_start_there_is_no_game[vqgan]",
    ),
    plant(
        "families/adversarial.py",
        "if self.training and torch.is_grad_enabled():",
        "if torch.is_grad_enabled():",
        "variants/test_tokenizers::test_evaluation_remembers_the_last_steps_weight",
    ),
    plant(
        "variants/kl_gan.py",
        "self.perceptual_weight * self.image.pixels * distance",
        "self.perceptual_weight * distance",
        "variants/test_tokenizers::test_the_perceptual_distance_counts_once_a_pixel[kl_gan]",
    ),
    plant(
        "variants/kl_gan.py",
        "self.balanced(fidelity, fooled)",
        "self.balanced(recon.mean(), fooled)",
        "variants/test_tokenizers::test_the_game_is_weighed_against_errors_and_features[kl_gan]",
    ),
    plant(
        "variants/kl_gan.py",
        "(self.kl_weight() * self.free(kl)).mean()",
        "self.free(kl).mean()",
        "variants/test_tokenizers::test_the_loss_of_kl_gan_is_the_papers_sum",
    ),
    plant(
        "variants/kl_gan.py",
        "self.seen(out.recon, batch.x)",
        "self.seen(out.recon.detach(), batch.x)",
        "variants/test_tokenizers::test_the_perceptual_terms_gradient_reaches_encoder_and_decoder[kl_gan]",
    ),
    plant(
        "variants/vqgan.py",
        "(z - e.detach())",
        "(z.detach() - e)",
        "variants/test_tokenizers::test_each_term_of_vqgan_teaches_its_part[ema]",
    ),
    plant(
        "parts/adversarial.py",
        "max=pixels * GREATEST_BALANCE",
        "max=GREATEST_BALANCE",
        "variants/test_tokenizers::test_the_balance_of_a_large_image_is_no_more_limited_than_that_of_a_small_one",
    ),
    plant(
        "variants/vqgan.py",
        "self.seen(images, batch.x)",
        "self.seen(images.detach(), batch.x)",
        "variants/test_tokenizers::test_the_perceptual_terms_gradient_reaches_encoder_and_decoder[vqgan]",
    ),
    plant(
        "variants/vqgan.py",
        "self.commitment * commitment",
        "commitment",
        "variants/test_tokenizers::test_the_loss_of_vqgan_is_the_papers_sum[ema]",
    ),
    plant(
        "variants/vqgan.py",
        'loss = loss + terms["codebook"]',
        'loss = loss - terms["codebook"]',
        "variants/test_tokenizers::test_the_loss_of_vqgan_is_the_papers_sum[gradient]",
    ),
    # ---- divergences: sign, weight, prior, arguments
    plant(
        "variants/info.py",
        "+ (self.alpha + self.scale - 1) * distance",
        "- (self.alpha + self.scale - 1) * distance",
        "variants/test_aggregate::test_the_loss_and_its_gradient_weigh_each_term[info-sum]",
    ),
    plant(
        "variants/info.py",
        "+ (self.alpha + self.scale - 1) * distance",
        "+ self.scale * distance",
        "variants/test_aggregate::test_the_loss_and_its_gradient_weigh_each_term[info-sum]",
    ),
    plant(
        "variants/info.py",
        "(1 - self.alpha) * self.kl_weight()",
        "self.alpha * self.kl_weight()",
        "variants/test_aggregate::test_the_loss_and_its_gradient_weigh_each_term[info-sum]",
    ),
    plant(
        "variants/info.py",
        "self.across_ranks(out.z)",
        "self.across_ranks(out.mu)",
        "variants/test_aggregate::test_decoded_latents_are_compared_with_draws_of_the_prior[info]",
    ),
    plant(
        "variants/info.py",
        "mmd(z, torch.randn_like(z), self.kernel)",
        "mmd(z, torch.rand_like(z), self.kernel)",
        "variants/test_aggregate::test_decoded_latents_are_compared_with_draws_of_the_prior[info]",
    ),
    plant(
        "variants/wae_mmd.py",
        "+ self.scale * distance",
        "- self.scale * distance",
        "variants/test_aggregate::test_latents_far_from_the_prior_are_drawn_to_it[wae_mmd]",
    ),
    plant(
        "variants/wae_mmd.py",
        "mmd(z, torch.randn_like(z), self.kernel)",
        "mmd(z, torch.zeros_like(z), self.kernel)",
        "variants/test_aggregate::test_decoded_latents_are_compared_with_draws_of_the_prior[wae_mmd]",
    ),
    plant(
        "variants/wae_mmd.py",
        "self.recon_weight * recon + self.scale * distance",
        "self.recon_weight * (recon + self.scale * distance)",
        "variants/test_aggregate::test_the_loss_and_its_gradient_weigh_each_term[wae_mmd-mean]",
    ),
    plant(
        "variants/swae.py",
        "+ self.scale * distance",
        "- self.scale * distance",
        "variants/test_aggregate::test_the_loss_and_its_gradient_weigh_each_term[swae-sum]",
    ),
    plant(
        "variants/swae.py",
        "sliced_wasserstein(z, torch.randn_like(z), self.projections)",
        "sliced_wasserstein(z, torch.rand_like(z), self.projections)",
        "variants/test_aggregate::test_decoded_latents_are_compared_with_draws_of_the_prior[swae]",
    ),
    plant(
        "parts/divergences.py",
        "c = 2.0 * a.shape[1]",
        "c = 2.0 * a.shape[0]",
        "test_divergences::test_mmd_grows_with_the_distance",
        "test_divergences::test_mmd_is_the_double_loop",
    ),
    plant(
        "parts/divergences.py",
        "/ max(1, n * (n - 1))",
        "/ max(1, n * n)",
        "test_divergences::test_mmd_is_unbiased",
    ),
    plant(
        "parts/divergences.py",
        "directions.norm(dim=0)",
        "directions.norm(dim=1, keepdim=True)",
        "test_divergences::test_sliced_distance_of_a_shift",
    ),
    plant(
        "parts/divergences.py",
        "(b @ directions).sort(0).values",
        "(b @ directions)",
        "test_divergences::test_sliced_distance_of_a_shift",
    ),
    plant(
        "parts/divergences.py",
        "z.gather(0, torch.rand_like(z).argsort(0))",
        "z[torch.rand_like(z[:, 0]).argsort()]",
        "test_divergences::test_permuting_dimensions_keeps_marginals_and_breaks_dependence",
    ),
    # ---- total correlation, covariance, capacity
    plant(
        "variants/beta_tc.py",
        "max(self.image.train_size, len(mu))",
        "len(mu)",
        "variants/test_disentangling::test_the_other_images_of_a_batch_stand_for_the_rest_of_the_data_set",
    ),
    plant(
        "variants/beta_tc.py",
        "(log_q.sum(2) + log_weights).logsumexp(1)",
        "(log_q.sum(2) + log_weights).logsumexp(0)",
        "variants/test_disentangling::test_the_parts_of_the_whole_data_set_are_exact",
    ),
    plant(
        "variants/beta_tc.py",
        "w * self.alpha * mi + w * self.beta * tc",
        "w * self.beta * mi + w * self.alpha * tc",
        "variants/test_disentangling::test_the_loss_weighs_each_part",
    ),
    plant(
        "variants/beta_tc.py",
        "tc = log_qz - log_marginals",
        "tc = log_marginals - log_qz",
        "variants/test_disentangling::test_the_three_parts_add_up_to_the_kl",
    ),
    plant(
        "variants/dip.py",
        "logvar.exp().mean(0).diag()",
        "(0.5 * logvar).exp().mean(0).diag()",
        "variants/test_disentangling::test_penalty_is_that_of_torchs_covariance",
    ),
    plant(
        "variants/dip.py",
        "self.off_diagonal * off + self.diagonal *",
        "self.diagonal * off + self.off_diagonal *",
        "variants/test_disentangling::test_penalty_is_that_of_torchs_covariance",
    ),
    plant(
        "variants/dip.py",
        "self.penalty(self.across_ranks(out.mu),",
        "self.penalty(self.across_ranks(out.z),",
        "variants/test_disentangling::test_the_penalty_is_part_of_the_loss",
    ),
    plant(
        "variants/beta_capacity.py",
        "(mean_kl - target).abs()",
        "(kl - target).abs().mean()",
        "variants/test_disentangling::test_the_target_is_one_for_the_mean_kl_not_for_each_image",
    ),
    plant(
        "variants/beta_capacity.py",
        "(self.progress / self.anneal)",
        "self.progress",
        "variants/test_disentangling::test_the_target_rises_in_a_line_and_stays",
    ),
    plant(
        "variants/beta_capacity.py",
        "self.across_ranks(kl).mean()",
        "kl.mean()",
        "test_distributed::test_a_batch_shared_out_over_ranks_has_the_whole_batchs_gradient",
    ),
    # ---- schedules and defaults
    plant(
        "variants/beta.py",
        "% 1 + (self.progress == 1)",
        "% 1",
        "test_variants::test_beta_schedule",
    ),
    plant(
        "variants/beta.py",
        "0.5 - 0.5 * (torch.pi * risen).cos()",
        "(torch.pi / 2 * risen).sin()",
        "test_variants::test_beta_schedule",
    ),
    plant(
        "variants/ladder.py",
        '@register("ladder", warmup=0.2)',
        '@register("ladder", warmup=0.0)',
        "test_defaults::test_each_default_is_there_as_it_is[ladder]",
    ),
    plant(
        "variants/categorical.py",
        "temperature_min: PositiveFloat = 0.5",
        "temperature_min: PositiveFloat = 0.05",
        "test_defaults::test_each_default_is_there_as_it_is[categorical]",
    ),
    plant(
        "variants/categorical.py",
        "self.temperature * (self.temperature_min / self.temperature) ** self.progress",
        "self.temperature + (self.temperature_min - self.temperature) * self.progress",
        "variants/test_discrete::test_the_temperature_falls_exponentially",
    ),
    plant(
        "variants/beta_capacity.py",
        "Field(gt=0, le=1)] = 0.8",
        "Field(gt=0, le=1)] = 1.0",
        "test_defaults::test_each_default_is_there_as_it_is[beta_capacity]",
    ),
    plant(
        "families/latent.py",
        "(self.progress / self.warmup).clamp(max=1) if self.warmup else 1.0",
        "(self.progress / self.warmup).clamp(max=1) if self.warmup else self.progress",
        "test_kl_weight::test_the_weight_rises_from_nothing_to_its_own[mlp]",
    ),
    # ---- the bound, its constants, and its samples
    plant(
        "families/latent.py",
        "means = self.across_ranks(kl.mean(0, keepdim=True)).mean(0)  # [G]\n"
        "        return means.clamp(min=self.free_bits * dims).sum().expand(len(kl))",
        "return kl.clamp(min=self.free_bits * dims).sum(1)",
        "test_kl_weight::test_each_part_is_free_by_its_mean_over_the_batch",
    ),
    plant(
        "families/latent.py",
        "self.kl_weight() * self.free(kl[:, None], self.latent_dim)  # [B]",
        "self.kl_weight() * self.free(kl[:, None])  # [B]",
        "test_kl_weight::test_a_familys_loss_is_what_its_variants_write_out",
    ),
    plant(
        "families/gaussian.py",
        "loss = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]",
        "loss = self.recon_weight * (recon + self.kl_weight() * self.free(kl))  # [B]",
        "test_kl_weight::test_a_familys_loss_is_what_its_variants_write_out",
    ),
    plant(
        "variants/plain.py",
        "loss = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]",
        "loss = recon + self.kl_weight() * self.free(kl)  # [B]",
        "test_variants::test_a_mean_over_pixels_is_of_the_reconstruction_alone[mlp]",
    ),
    plant(
        "families/latent.py",
        ".logsumexp(0) - math.log(k)",
        ".logsumexp(0)",
        "test_gaussian::test_bound_is_exact_with_the_exact_posterior",
    ),
    plant(
        "families/latent.py",
        "-(recon + self.likelihood.constant + kl)",
        "-(recon + kl)",
        "test_metrics_likelihood::test_elbo_counts_the_likelihoods_constants",
    ),
    plant(
        "families/latent.py",
        "log_px + self.log_prior(z) - log_q",
        "log_px + self.log_prior(z) - log_q.detach()",
        "variants/test_bounds::test_the_trained_bound_is_the_reported_one_and_has_its_gradient",
    ),
    plant(
        "families/latent.py",
        "torch.cat([x] * k)",
        "x.repeat_interleave(k, 0)",
        "test_gaussian::test_each_image_has_its_own_bound",
    ),
    plant(
        "variants/iwae.py",
        "logsumexp(1) - math.log(k)",
        "logsumexp(1) - math.log(k * groups)",
        "variants/test_bounds::test_bound_of_groups_is_the_double_loop",
    ),
    plant(
        "variants/iwae.py",
        "k = self.groups * self.samples",
        "k = self.groups + self.samples",
        "variants/test_bounds::test_each_variants_bound",
    ),
    plant(
        "variants/iwae.py",
        "samples: PositiveInt = 5",
        "samples: PositiveInt = 1",
        "test_defaults::test_each_default_is_there_as_it_is[iwae]",
    ),
    plant(
        "variants/tighter.py",
        "self.elbo_weight * elbo + (1 - self.elbo_weight) *",
        "(1 - self.elbo_weight) * elbo + self.elbo_weight *",
        "variants/test_bounds::test_each_variants_bound",
    ),
    plant(
        "variants/tighter.py",
        "-grouped_bound(log_weights, self.groups).mean()",
        "-grouped_bound(log_weights, 1).mean()",
        "variants/test_bounds::test_the_players_of_piwae_follow_different_bounds",
    ),
    plant(
        "variants/tighter.py",
        "*self.to_mu.parameters(), *self.to_logvar.parameters()]",
        "*self.to_mu.parameters()]",
        "variants/test_bounds::test_the_players_of_piwae_follow_different_bounds",
    ),
    # ---- posteriors and priors
    plant(
        "variants/conditional.py",
        "torch.cat([z, self._vector(y)], 1)",
        "torch.cat([z, torch.zeros_like(self._vector(y))], 1)",
        "test_variants::test_labels_change_both_ends_of_the_latent",
    ),
    plant(
        "variants/conditional.py",
        "self.label_channel(self._vector(y))",
        "self.label_channel(self._vector(y).roll(1, 0))",
        "test_variants::test_labels_change_both_ends_of_the_latent",
    ),
    plant(
        "variants/hyperspherical.py",
        "self.logits(z[0])",
        "self.logits(q.point)",
        "test_variants::test_the_loss_decodes_draws_of_the_posterior[hyperspherical]",
    ),
    plant(
        "variants/hyperspherical.py",
        "-self.sphere.log_area",
        "self.sphere.log_area",
        "test_variants::test_contract_on_nets_and_images[hyperspherical-odd-mlp]",
    ),
    plant(
        "parts/sphere.py",
        "accepted.byte().argmax(0, keepdim=True)",
        "accepted.byte().argmin(0, keepdim=True)",
        "test_sphere::test_draws_have_the_mean_resultant_length",
    ),
    plant(
        "parts/sphere.py",
        "F.normalize(torch.randn(n, self.dim, generator=generator, device=source).to(device), dim=1)",
        "F.normalize(2 * torch.rand(n, self.dim, generator=generator, device=source).to(device) - 1, dim=1)",
        "test_sphere::test_uniform_draws_have_no_direction",
    ),
    plant(
        "variants/iaf.py",
        "z, log_det = z.flip(-1), log_det + more",
        "log_det = log_det + more",
        "test_flows::test_every_dimension_reaches_every_other_after_two_steps",
        "test_flows::test_log_determinant_is_autograds[iaf]",
    ),
    plant(
        "parts/flows.py",
        "self.m = MaskedLinear(inputs[:, None] > hidden)",
        "self.m = MaskedLinear(inputs[:, None] >= hidden)",
        "test_flows::test_an_autoregressive_step_is_triangular_and_can_be_undone",
    ),
    plant(
        "parts/flows.py",
        "(slack - 1 - wu) * w /",
        "(slack + 1 - wu) * w /",
        "test_flows::test_log_determinant_is_autograds[planar]",
    ),
    plant(
        "parts/flows.py",
        "log_q - log_det",
        "log_q + log_det",
        "test_flows::test_density_of_draws_is_normalised",
    ),
    plant(
        "parts/flows.py",
        "return (u - t) * (-s).exp()",
        "return u * (-s).exp() - t",
        "test_priors::test_a_coupling_step_can_be_undone_and_knows_its_volume",
    ),
    plant(
        "parts/priors.py",
        "return gaussian_log_prob(z) + log_det",
        "return gaussian_log_prob(z) - log_det",
        "test_priors::test_a_flow_prior_integrates_to_one_on_a_grid",
    ),
    plant(
        "parts/priors.py",
        "for step in reversed(self.steps):",
        "for step in self.steps:",
        "test_priors::test_draws_of_a_flow_prior_have_its_density",
    ),
    plant(
        "variants/flow_prior.py",
        "kl = (log_q - self.log_prior(z))[0]",
        "kl = (log_q - super().log_prior(z))[0]",
        "test_priors::test_the_loss_of_flow_prior_is_the_bound_under_its_prior",
    ),
    plant(
        "variants/eq.py",
        "if not self.training:",
        "if False:",
        "variants/test_equivariant::test_under_the_identity_it_is_the_plain_loss[sum]",
    ),
    plant(
        "variants/eq.py",
        "size=size, mode=",
        "size=maps.shape[2:], mode=",
        "variants/test_equivariant::test_a_scaled_map_keeps_what_is_linear",
    ),
    plant(
        "variants/eq.py",
        "recon = self.likelihood.nll(logits, x)",
        "recon = self.likelihood.nll(logits, x.flip(2))",
        "variants/test_equivariant::test_the_loss_compares_what_turned_latents_decode_to_with_turned_images[size0-1]",
    ),
    plant(
        "variants/eq.py",
        "conv(transform(z, (height, width), quarters))",
        "conv(transform(z, (height, width), quarters).detach())",
        "variants/test_equivariant::test_the_loss_compares_what_turned_latents_decode_to_with_turned_images[size1-2]",
    ),
    plant(
        "variants/eq.py",
        "conv(transform(z, (height, width), quarters))",
        "conv(transform(z, (height, width), -quarters))",
        "variants/test_equivariant::test_the_loss_compares_what_turned_latents_decode_to_with_turned_images[size0-1]",
    ),
    plant(
        "variants/eq.py",
        "if chance >= self.transformed:",
        "if chance < self.transformed / 2:",
        "variants/test_equivariant::test_what_is_drawn",
    ),
    plant(
        "variants/eq.py",
        "1 + int(3 * turn)",
        "1 + int(2 * turn)",
        "variants/test_equivariant::test_what_is_drawn",
    ),
    plant(
        "pictures/of_models.py",
        "channel, row, column = np.unravel_index(dim, grid)",
        "row, column, channel = np.unravel_index(dim, grid)",
        "test_pictures::test_traversals_of_a_grid_tell_channel_and_place",
    ),
    plant(
        "parts/flows.py",
        "target = z - start",
        "target = z + start",
        "test_samplers::test_the_best_velocity_has_the_least_loss",
    ),
    plant(
        "parts/flows.py",
        "self.velocity(middle, t + 1 / (2 * steps)) / steps",
        "self.velocity(middle, t + 1 / (2 * steps)) / (2 * steps)",
        "test_samplers::test_a_rectified_flow_follows_its_velocity",
    ),
    plant(
        "parts/flows.py",
        "z * (2 * t - 1) / (t.square() + (1 - t).square())",
        "z * (2 * t - 1)",
        "test_samplers::test_a_rectified_flow_starts_from_the_standard_normals_own",
    ),
    plant(
        "metrics/samplers.py",
        "flow.sample(n, g).cpu() @ root.T + mean",
        "flow.sample(n, g).cpu() @ root + mean",
        "test_samplers::test_a_rectified_flow_gives_gaussian_latents_back",
    ),
    plant(
        "variants/ladder.py",
        "gaussian_kl_between_per_dim(*q, *p)",
        "gaussian_kl_between_per_dim(*p, *q)",
        "variants/test_hierarchical::test_layers_kls_sum_to_the_joint_kl[[3, 2]]",
    ),
    plant(
        "variants/ladder.py",
        "gaussian_sample(*self.prior_of(layer, zs[0]), generator)",
        "self.prior_of(layer, zs[0])[0]",
        "variants/test_hierarchical::test_draws_of_the_prior_have_its_density",
    ),
    plant(
        "parts/hierarchy.py",
        "a[0] * (-a[1]).exp() + b[0] * (-b[1]).exp()",
        "a[0] * (-b[1]).exp() + b[0] * (-a[1]).exp()",
        "variants/test_hierarchical::test_merging_is_multiplying_densities",
    ),
    plant(
        "variants/two_stage.py",
        "z = self.reparameterize(*self.encode(batch.x, batch.y))",
        "z, _ = self.encode(batch.x, batch.y)",
        "test_priors::test_the_second_stage_is_shown_draws_of_the_posterior",
    ),
    plant(
        "parts/priors.py",
        "(gaussian_kl(mu, logvar) + recon).mean()",
        "(0.5 * gaussian_kl(mu, logvar) + recon).mean()",
        "test_priors::test_the_second_stages_loss_is_minus_its_bound",
    ),
    plant(
        "parts/priors.py",
        "mean + (0.5 * self.log_gamma).exp()",
        "mean + self.log_gamma.exp()",
        "test_priors::test_the_second_stages_estimate_has_mean_p_of_z",
    ),
    plant(
        "variants/vamp.py",
        "(log_densities.logsumexp(-1) - math.log(len(mu)))",
        "(log_densities.logsumexp(-1) - math.log(mu.shape[1]))",
        "test_priors::test_the_vamp_prior_is_the_mixture_of_its_pseudo_images_posteriors",
    ),
    plant(
        "variants/vamp.py",
        "gaussian_sample(mu[chosen], logvar[chosen], generator)",
        "mu[chosen]",
        "test_priors::test_the_vamp_prior_is_drawn_from",
    ),
    plant(
        "families/discrete.py",
        "self.posterior(batch.x).draw(1)[0][0]",
        "self.posterior(batch.x).point",
        "variants/test_discrete::test_the_prior_is_shown_draws_of_the_posterior",
    ),
    plant(
        "families/discrete.py",
        '{"loss": -self.prior.log_prob(codes).mean()}',
        '{"loss": self.prior.log_prob(codes).mean()}',
        "variants/test_discrete::test_the_priors_loss_is_minus_the_log_probability_of_the_codes",
    ),
    plant(
        "parts/distributions.py",
        "(0.5 * logvar).exp() * standard_normal",
        "logvar.exp() * standard_normal",
        "test_gaussian::test_reparameterize_is_mean_plus_deviation_times_noise",
    ),
    plant(
        "parts/distributions.py",
        "- math.lgamma(0.5 / a + 0.5) - math.log(a)",
        "- math.lgamma(0.5 / a + 0.5)",
        "variants/test_likelihoods::test_densities_integrate_to_one",
    ),
    # ---- codes
    plant(
        "variants/categorical.py",
        "((q.log_probs - noise.log()) / t)",
        "((q.log_probs + noise.log()) / t)",
        "variants/test_discrete::test_what_relaxed_categories_harden_to_is_a_draw_of_the_posterior",
    ),
    plant(
        "variants/fsq.py",
        "rate = -self.prior.log_prob(indices).detach()",
        "rate = self.prior.log_prob(indices).detach()",
        "variants/test_discrete::test_elbo_is_a_bound_under_the_prior_over_codes[fsq]",
    ),
    plant(
        "variants/vq.py",
        "(z - e.detach()).square()",
        "(z.detach() - e).square()",
        "variants/test_discrete::test_each_term_of_vq_teaches_its_part",
    ),
    plant(
        "variants/vq.py",
        "self.commitment * commitment",
        "commitment",
        "variants/test_discrete::test_vq_terms_by_hand",
    ),
    plant(
        "variants/vq.py",
        'if player == "vae":\n            self.quantizer.learn()',
        "self.quantizer.learn()",
        "variants/test_discrete::test_the_codebook_learns_at_its_own_players_turn_alone",
    ),
    plant(
        "parts/quantizers.py",
        "decay: float = 0.99",
        "decay: float = 0.9",
        "test_quantizers::test_by_default_a_hundredth_of_the_averages_is_new",
    ),
    plant(
        "parts/quantizers.py",
        "picked * share, self.sums",
        "picked, self.sums",
        "test_quantizers::test_a_revived_code_stays_where_it_was_moved_to",
    ),
    plant(
        "parts/quantizers.py",
        "self.counts.lerp_(ranks.summed(self.seen_counts)",
        "self.counts.lerp_(self.seen_counts",
        "test_distributed::test_a_batch_shared_out_over_ranks_has_the_whole_batchs_gradient",
    ),
    plant(
        "parts/quantizers.py",
        "(offset / half).atanh()",
        "(offset / half).tan()",
        "test_quantizers::test_what_is_nothing_is_bounded_to_nothing",
    ),
    plant(
        "parts/quantizers.py",
        "x + (quantised - x).detach()",
        "quantised + (x - quantised).detach()",
        "variants/test_discrete::test_the_decoders_gradient_goes_straight_to_the_encoder",
        "test_quantizers::test_rounding_passes_the_gradient_of_the_bounded_value",
    ),
    plant(
        "parts/quantizers.py",
        "- 2 * (x * r).sum(-1, keepdim=True) * r + 2 *",
        "- 2 * (x * r).sum(-1, keepdim=True) * r + 1 *",
        "test_quantizers::test_what_is_rotated_is_the_code_by_a_rotation_and_a_stretch",
        "test_quantizers::test_a_gradient_keeps_its_angle_through_a_rotation",
    ),
    plant(
        "parts/quantizers.py",
        "stretch = target / norm.clamp(min=LEAST_NORM)",
        "stretch = norm / target.clamp(min=LEAST_NORM)",
        "test_quantizers::test_what_is_rotated_is_the_code_by_a_rotation_and_a_stretch",
    ),
    plant(
        "variants/vq.py",
        'rotated if gradient == "rotation" else straight_through',
        "straight_through",
        "variants/test_discrete::test_a_rotated_gradient_comes_back_turned",
    ),
    plant(
        "parts/quantizers.py",
        "return self.map(self.random)",
        "return self.map(self.random.detach()).detach() + self.map.bias",
        "test_quantizers::test_one_vector_moves_all_codes_of_a_linear_codebook",
    ),
    plant(
        "parts/quantizers.py",
        "centres = torch.where(counts[:, None] > 0, means, centres)",
        "centres = means",
        "test_quantizers::test_k_means_finds_clusters_and_leaves_a_centre_without_vectors",
    ),
    plant(
        "parts/quantizers.py",
        "self.begun.fill_(True)",
        "self.begun.fill_(False)",
        "test_quantizers::test_a_codebook_starts_from_the_first_steps_clusters_once",
    ),
    plant(
        "parts/quantizers.py",
        "shares = found / found.sum() * ranks",
        "shares = found * ranks",
        "test_quantizers::test_a_codebook_starts_from_the_first_steps_clusters_once",
    ),
    plant(
        "parts/quantizers.py",
        "            e, index = stage(rest)\n            rest = rest - e",
        "            e, index = stage(rest)",
        "test_quantizers::test_each_stage_leaves_less_over",
    ),
    plant(
        "parts/quantizers.py",
        "rest = rest - stage.codes_at(stage.index_of(rest))",
        "rest = rest - rest.mean(0)",
        "test_quantizers::test_residual_codebooks_start_from_clusters_of_what_is_left_over",
    ),
    plant(
        "parts/quantizers.py",
        "            stage.see(rest, index)\n            rest = rest - e",
        "            stage.see(rest, index)",
        "test_quantizers::test_each_stage_leaves_less_over",
    ),
    plant(
        "parts/quantizers.py",
        "F.softplus(logits) - logits * logits.sigmoid()",
        "F.softplus(logits) - 0.5 * logits * logits.sigmoid()",
        "test_quantizers::test_entropies_of_signs_are_those_of_all_combinations",
    ),
    plant(
        "parts/quantizers.py",
        "torch.cat([joint * (1 - on), joint * on], 1)",
        "torch.cat([joint * on, joint * (1 - on)], 1)",
        "test_quantizers::test_entropies_of_signs_are_those_of_all_combinations",
    ),
    plant(
        "families/discrete.py",
        "torch.special.entr(each.clamp(min=LEAST_SHARE))",
        "torch.special.entr(each)",
        "variants/test_discrete::test_a_code_that_is_never_likely_leaves_the_gradient_finite",
    ),
    plant(
        "families/discrete.py",
        "self.across_ranks(each[None]).mean(0) for each",
        "each for each",
        "test_distributed::test_a_batch_shared_out_over_ranks_has_the_whole_batchs_gradient",
    ),
    plant(
        "families/discrete.py",
        "turns * codes + indices",
        "indices",
        "variants/test_discrete::test_usage_and_perplexity_are_those_of_the_codes[rvq]",
    ),
    plant(
        "variants/rvq.py",
        "commitment = squared.mean(1).mean()",
        "commitment = squared[:, -1].mean()",
        "variants/test_discrete::test_rvq_terms_by_hand",
    ),
    plant(
        "variants/rvq.py",
        "* self.codebooks).long() + 1",
        "* self.codebooks).long()",
        "variants/test_discrete::test_stages_are_dropped_in_training_alone",
    ),
    plant(
        "variants/rvq.py",
        "expand_as(sums).flatten(1) / self.codebooks",
        "expand_as(sums).flatten(1)",
        "variants/test_discrete::test_rvqs_gradient_goes_straight_to_the_encoder",
    ),
    plant(
        "parts/quantizers.py",
        "x.unflatten(1, self.shape).sum(2)",
        "x.unflatten(1, self.shape).mean(2)",
        "variants/test_discrete::test_a_prefix_of_the_stages_decodes",
    ),
    plant(
        "variants/lfq.py",
        "4 * z / self.temperature",
        "2 * z / self.temperature",
        "variants/test_discrete::test_terms_of_sign_codes_by_brute_force[lfq]",
    ),
    plant(
        "variants/lfq.py",
        "self.entropy_weight * (entropy - spread)",
        "self.entropy_weight * (entropy + spread)",
        "variants/test_discrete::test_terms_of_sign_codes_by_brute_force[lfq]",
    ),
    plant(
        "variants/bsq.py",
        "2 * self.sharpness * u / self.dim**0.5",
        "2 * self.sharpness * u",
        "variants/test_discrete::test_terms_of_sign_codes_by_brute_force[bsq]",
    ),
    plant(
        "variants/bsq.py",
        "self.dim, self.dim**-0.5)",
        "self.dim)",
        "variants/test_discrete::test_terms_of_sign_codes_by_brute_force[bsq]",
    ),
    plant(
        "nets/published.py",
        "wide) for _ in range(blocks)), nn.ReLU()]",
        "wide) for _ in range(blocks - 1)), nn.ReLU()]",
        "test_nets::test_grids_have_a_position_for_so_many_pixels",
    ),
    # ---- likelihoods and penalties
    plant(
        "parts/likelihoods.py",
        "safe.log() - safe.tanh().log()",
        "safe.log() - safe.sinh().log()",
        "variants/test_likelihoods::test_a_continuous_bernoulli_integrates_to_one_and_has_its_mean",
    ),
    plant(
        "parts/likelihoods.py",
        "half**2 / 3 - 7 * half**4 / 90",
        "half**2 / 3",
        "variants/test_likelihoods::test_a_continuous_bernoulli_integrates_to_one_and_has_its_mean",
    ),
    plant(
        "parts/likelihoods.py",
        " + math.log(self.width)).flatten",
        ").flatten",
        "variants/test_likelihoods::test_a_continuous_bernoulli_integrates_to_one_and_has_its_mean",
    ),
    plant(
        "parts/likelihoods.py",
        "-1 / torch.expm1(-safe) - 1 / safe",
        "safe.sigmoid()",
        "variants/test_likelihoods::test_a_continuous_bernoulli_integrates_to_one_and_has_its_mean",
    ),
    plant(
        "parts/likelihoods.py",
        "first, last = x < half - 1, x > 1 - half",
        "first, last = x < -2, x > 2",
        "variants/test_likelihoods::test_256_levels_sum_to_one",
    ),
    plant(
        "parts/likelihoods.py",
        "(-torch.expm1(-2 * half * inverse)).log()",
        "(-torch.expm1(-half * inverse)).log()",
        "variants/test_likelihoods::test_256_levels_sum_to_one",
    ),
    plant(
        "parts/likelihoods.py",
        "means[c] + a[:, :, number] * x[:, :, d]",
        "means[c] + a[:, :, number] * x[:, :, c]",
        "variants/test_likelihoods::test_channels_follow_those_before_them",
    ),
    plant(
        "parts/likelihoods.py",
        "F.softplus((centre + 1) / spread) - F.softplus((centre - 1) / spread)",
        "F.softplus((centre + 1) / spread)",
        "variants/test_likelihoods::test_the_image_of_a_logistic_mixture_is_its_mean",
    ),
    plant(
        "metrics/likelihood.py",
        "if not _likelihood(subject).of_levels:",
        'if _likelihood(subject).kind != "bce":',
        "test_metrics_likelihood::test_bits_say_their_likelihood",
    ),
    plant(
        "variants/logcosh.py",
        "self.likelihood.activation, image, sharpness)",
        "self.likelihood.activation, image)",
        "variants/test_likelihoods::test_logcosh_is_its_formula_and_does_not_overflow",
    ),
    plant(
        "variants/sigma.py",
        "MOMENTUM = 0.01",
        "MOMENTUM = 0.1",
        "variants/test_likelihoods::test_the_variance_is_remembered_over_a_hundred_steps",
    ),
    plant(
        "variants/sigma.py",
        "clamp(min=math.exp(LEAST_LOG_VARIANCE))",
        "clamp(min=math.exp(LEAST_LOG_VARIANCE / 2))",
        "variants/test_likelihoods::test_images_that_are_met_exactly_leave_sigma_finite",
    ),
    plant(
        "variants/ms_ssim.py",
        "self.weight * (1 - similarity)",
        "self.weight * (1 - similarity).square()",
        "variants/test_likelihoods::test_the_loss_of_ms_ssim",
    ),
    plant(
        "variants/rae.py",
        "torch.autograd.grad(images, z, torch.randn_like(images), create_graph=True)",
        "torch.autograd.grad(images, z, torch.ones_like(images), create_graph=True)",
        "variants/test_deterministic::test_gradient_penalty_is_the_jacobians_norm",
    ),
    plant(
        "variants/rae.py",
        "torch.autograd.grad(images, z, torch.randn_like(images), create_graph=True)",
        "torch.autograd.grad(images, z, torch.randn_like(images))",
        "variants/test_deterministic::test_gradient_penalty_reaches_the_decoder_and_the_encoder",
    ),
    plant(
        "variants/rae.py",
        "if parameter.ndim > 1",
        "if parameter.ndim > 0",
        "variants/test_deterministic::test_weight_penalty_is_the_decoders_weights",
    ),
    # ---- BatchNorm
    plant(
        "nets/batch_norm.py",
        "layer.momentum = 0.0",
        "layer.momentum = momenta[0]",
        "variants/test_batch_norm::test_a_second_players_turn_leaves_batch_norms_memory_alone[factor-critic]",
    ),
    plant(
        "nets/batch_norm.py",
        "layer.training = True",
        "layer.training = False",
        "variants/test_batch_norm::test_layers_go_on_as_they_were",
    ),
    plant(
        "variants/vamp.py",
        "with as_evaluated(self.encoder):\n            return",
        "if True:\n            return",
        "variants/test_batch_norm::test_each_layer_remembers_a_step_once[vamp]",
    ),
    # ---- ranks
    plant(
        "ranks.py",
        "dist.all_reduce(total)\n        return total[",
        "return total[",
        "test_distributed::test_a_batch_shared_out_over_ranks_has_the_whole_batchs_gradient",
    ),
    plant(
        "variants/beta_tc.py",
        "first = ranks.number() * len(z) if self.training else 0",
        "first = 0",
        "test_distributed::test_a_batch_shared_out_over_ranks_has_the_whole_batchs_gradient",
    ),
    # ---- training, averages, optimizers, checkpoints
    plant(
        "engine/train.py",
        "min(self.config.ema, (1 + self.step) / (10 + self.step))",
        "self.config.ema",
        "test_train::test_average_follows_the_weights",
    ),
    plant(
        "engine/train.py",
        "list(current), 1 - decay)",
        "list(current), decay)",
        "test_train::test_average_follows_the_weights",
    ),
    plant(
        "engine/train.py",
        "noise_seed(config.seed, self.step, player.number, micro, self.rank)",
        "noise_seed(config.seed, 0, player.number, micro, self.rank)",
        "test_train::test_each_pass_of_a_run_has_noise_of_its_own",
    ),
    plant(
        "engine/train.py",
        "noise_seed(config.seed, self.step, player.number, micro, self.rank)",
        "noise_seed(config.seed, self.step, player.number, micro, 0)",
        "test_train::test_each_pass_of_a_run_has_noise_of_its_own",
    ),
    plant(
        "engine/train.py",
        "loss = loss / self.config.accumulate if self.config.accumulate > 1 else loss",
        "loss = loss",
        "test_train::test_accumulated_micro_batches_equal_the_whole_batch",
    ),
    plant(
        "engine/train.py",
        "parameter.requires_grad_(other is player)",
        "parameter.requires_grad_(True)",
        "test_train::test_a_players_turn_leaves_no_gradient_behind",
    ),
    plant(
        "engine/train.py",
        "config.seed, self.step, total, self.rank, self.world)",
        "config.seed, max(0, self.step - 1), total, self.rank, self.world)",
        "test_train::test_resume_is_bit_for_bit[bf16]",
    ),
    plant(
        "engine/train.py",
        "for player in self.players:\n                moments",
        "for player in self.players[:1]:\n                moments",
        "test_train::test_resume_is_bit_for_bit[two players]",
    ),
    plant(
        "engine/train.py",
        'self.average.load_state_dict(state["average"])',
        "pass",
        "test_train::test_resume_is_bit_for_bit[everything]",
    ),
    plant(
        "engine/train.py",
        'self.step, self.best_val = progress["step"], progress["best_val"]',
        'self.step = progress["step"]',
        "test_train::test_a_resumed_run_knows_the_best_it_has_seen",
    ),
    plant(
        "engine/checkpoint.py",
        "== read_json(path / DIGESTS_FILE):",
        "is not None:",
        "test_checkpoint::test_a_damaged_newest_falls_back_to_the_one_before",
    ),
    plant(
        "engine/checkpoint.py",
        "if old != best_step:",
        "if old:",
        "test_checkpoint::test_keeps_the_newest_and_the_best",
    ),
    plant(
        "engine/checkpoint.py",
        '.to("cpu", copy=True, memory_format=memory_format)',
        '.to("cpu", memory_format=memory_format)',
        "test_checkpoint::test_training_goes_on_while_a_checkpoint_is_written",
    ),
    plant(
        "engine/optimizers.py",
        "common | model.optimizers.get(player, {}) | own",
        "common | own | model.optimizers.get(player, {})",
        "test_optimizers::test_a_player_has_its_papers_optimizer_unless_the_config_says_otherwise",
    ),
    plant(
        "engine/optimizers.py",
        "(step - config.lr_warmup) / max(1, total - config.lr_warmup)",
        "step / total",
        "test_optimizers::test_learning_rate_is_a_function_of_the_step",
    ),
    plant(
        "engine/optimizers.py",
        "self.moments_of is self.optimizer.state:",
        "self.moments_of is not None:",
        "test_optimizers::test_the_loop_steps_as_torch_does",
    ),
    plant(
        "engine/optimizers.py",
        "epoch >= milestone",
        "epoch > milestone",
        "test_optimizers::test_learning_rate_falls_at_milestones",
    ),
    plant(
        "engine/optimizers.py",
        "(3**i - 1) // 2",
        "3**i",
        "test_optimizers::test_burdas_rates",
    ),
    plant(
        "engine/setup.py",
        "warmup(config, total * config.batch_size / len(data.train))",
        "warmup(config, total * config.batch_size)",
        "test_setup::test_warmup_may_be_told_in_epochs",
    ),
    plant(
        "engine/validation.py",
        "len(batch.x), model.loss(batch)",
        "batch_size, model.loss(batch)",
        "test_train::test_evaluation_weighs_every_image_once_and_ends_schedules",
    ),
    # ---- splits, samplers of images, pixels
    plant(
        "data/splits.py",
        "images.subset(order[held:])",
        "images.subset(order[max(0, held - 1) :])",
        "test_data::TestSplits::test_share_no_image_and_lose_none",
    ),
    plant(
        "data/splits.py",
        "splits[0])\n    in_it",
        "str(len(digests)))\n    in_it",
        "test_folders::TestMembership::test_no_image_changes_sides",
    ),
    plant(
        "data/splits.py",
        "int((new < fraction).sum())",
        "int((new < fraction / 2).sum())",
        "test_folders::TestMembership::test_shares_are_those_asked_for",
    ),
    plant(
        "data/splits.py",
        "elsewhere = ~in_it & _among(digests, run, run or ())",
        "elsewhere = np.zeros_like(in_it)",
        "test_life::test_a_folder_that_grew_is_told_and_no_test_image_was_trained_on",
        "test_folders::TestMembership::test_no_image_changes_sides",
    ),
    plant(
        "engine/provenance.py",
        '{"root": None, "title": None, "digest": data_digest}',
        '{"root": None, "title": None}',
        "test_life::test_two_folders_are_two_data_sets",
    ),
    plant(
        "engine/provenance.py",
        'if life["changed"]]',
        'if life["changed"] and not life["step"]]',
        "test_life::test_a_longer_second_life_is_another_run",
    ),
    plant(
        "engine/log.py",
        "        self.window.absorb(self.passed)\n",
        "        self.window = self.passed\n",
        "test_life::test_rows_average_whole_windows_or_say_how_many_steps",
    ),
    plant(
        "engine/train.py",
        "            self.model.get_submodule(name).eval()\n",
        "            pass\n",
        "test_life::test_frozen_batch_norm_learns_no_statistics",
    ),
    plant(
        "data/splits.py",
        "permutation(len(images), seed, 0)",
        "permutation(len(images), 0, 0)",
        "test_data::TestSplits::test_depend_on_split_seed_only",
    ),
    plant(
        "data/sampler.py",
        "permutation(n, seed, epoch)",
        "permutation(n, seed, 0)",
        "test_data::TestSampler::test_epochs_and_seeds_differ",
    ),
    plant(
        "data/sampler.py",
        "permutation(n, seed, epoch)",
        "permutation(n, epoch)",
        "test_data::TestSampler::test_epochs_and_seeds_differ",
    ),
    plant(
        "data/sampler.py",
        "position = step * batch_size + rank * share",
        "position = step * share + rank * share",
        "test_data::TestSampler::test_ranks_share_the_global_batch",
    ),
    plant(
        "data/sampler.py",
        "torch.manual_seed(number)",
        "torch.manual_seed(rank)",
        "test_metrics_likelihood::test_two_processes_score_as_one",
        "test_train::test_evaluation_weighs_every_image_once_and_ends_schedules",
    ),
    plant(
        "data/source.py",
        "positions if self.index is None else self.index[positions],",
        "positions,",
        "test_data::TestPixels::test_batch_of_a_subset_of_a_subset",
    ),
    plant(
        "data/source.py",
        "self.labels.numpy().take(positions.numpy(), axis=0)",
        'self.labels.numpy().take(rows.numpy(), axis=0, mode="wrap")',
        "test_data::TestPixels::test_batch_of_a_subset_of_a_subset",
    ),
    plant(
        "data/pixels.py",
        "images.flip(-1)",
        "images.flip(-2)",
        "test_data::TestPixels::test_mirror_flips_about_half_of_the_images_left_to_right",
    ),
    plant(
        "data/pixels.py",
        "torch.randint(-margin, margin + 1,",
        "torch.randint(-margin, margin,",
        "test_data::TestPixels::test_a_random_crop_is_a_crop_of_the_padded_image",
    ),
    plant(
        "data/celeba.py",
        'zip("012", parts, strict=True)',
        'zip("021", parts, strict=True)',
        "test_data::TestCelebA::test_official_splits_and_attributes",
    ),
    plant(
        "data/dsprites.py",
        "permutation(len(images), 0)[:limit].numpy()",
        "np.arange(limit)",
        "test_dsprites::test_a_limit_takes_a_mixture",
    ),
    plant(
        "data/folder.py",
        "labels=labels[kept[rows]]",
        "labels=labels[rows]",
        "test_data::TestImageFolder::test_labels_stay_with_their_images_past_a_bad_one",
    ),
    plant(
        "data/shapes.py",
        "PERIODS = (math.pi / 2,",
        "PERIODS = (math.pi,",
        "test_data::TestShapes::test_no_two_combinations_look_alike_and_none_is_cut_off",
    ),
    # ---- papers' nets, and where they start
    plant(
        "nets/published.py",
        "self.value(x) * self.gate(x).sigmoid()",
        "self.value(x) * self.gate(x).tanh()",
        "test_nets::test_gated_net",
    ),
    plant(
        "nets/published.py",
        "decoder_shape=(base_channels * 8, SMALLEST, SMALLEST),",
        "",
        "test_nets::test_rae_net",
    ),
    plant(
        "nets/pairs.py",
        "encoder += [nn.Linear(before, after), act()]",
        "encoder += [nn.Linear(before, after), nn.ReLU()]",
        "test_nets::test_an_mlp_has_the_activation_that_is_asked_for",
    ),
    plant(
        "engine/initial.py",
        "nn.init.kaiming_normal_(layer.weight)",
        "nn.init.kaiming_uniform_(layer.weight)",
        "test_initial::test_weights_have_the_variance_of_their_paper",
    ),
    plant(
        "engine/initial.py",
        "bias.copy_(mean.clamp(LEAST, 1 - LEAST).logit())",
        "bias.copy_(mean)",
        "test_initial::test_the_last_bias_is_the_logit_of_the_mean",
    ),
    plant(
        "families/gaussian.py",
        "logvar.clamp(*self.logvar_range) if self.logvar_range else logvar",
        "logvar",
        "test_initial::test_log_variances_are_clamped_where_a_paper_clamps_them",
    ),
    plant(
        "parts/distributions.py",
        "2 * _log_softplus(raw)",
        "_log_softplus(raw)",
        "test_initial::test_a_posteriors_scale_may_be_a_softplus",
    ),
    plant(
        "engine/optimizers.py",
        "(value.shape, value.dtype) == (parameter.shape, parameter.dtype)",
        "True",
        "test_records::test_moments_that_do_not_fit",
    ),
    # ---- what is held against a paper
    plant(
        "reports/reference.py",
        'in ("dynamic", "fixed")',
        'in ("dynamic", "fixed", None)',
        "test_reference::test_a_likelihood_of_grey_pixels_is_never_held_against_a_paper",
    ),
    # ---- how sure a board is
    plant(
        "reports/board/statistics.py",
        "float(ahead.min()) * (len(some) - 1)",
        "float(ahead.min())",
        "test_board_statistics::test_with_many_equal_rows_the_best_is_seldom_denied",
    ),
    plant(
        "reports/board/statistics.py",
        "np.maximum(n, m) - 1)",
        "np.maximum(n, m))",
        "test_board_statistics::test_the_numbers_are_scipys",
    ),
    plant(
        "reports/board/statistics.py",
        "2 / comb(n + m, n)",
        "0 / comb(n + m, n)",
        "test_board_statistics::test_no_spread_over_a_few_seeds_is_no_certainty",
    ),
    plant(
        "reports/board/statistics.py",
        "float(stdtrit(len(values) - 1, above))",
        "float(stdtrit(len(values), above))",
        "test_board_statistics::test_the_numbers_are_scipys",
    ),
    # ---- black and white pixels
    plant(
        "data/binarise.py",
        "np.left_shift(grey, 16, dtype=np.uint32)",
        "np.left_shift(grey, 15, dtype=np.uint32)",
        "test_binarise::test_pixels_are_white_with_their_grey_level_as_probability",
    ),
    plant(
        "data/binarise.py",
        "* np.uint64(len(words)) + words",
        "+ words",
        "test_binarise::test_pixels_are_white_with_their_grey_level_as_probability",
    ),
    plant(
        "data/binarise.py",
        "states * GOLDEN + salt(key)",
        "states * GOLDEN",
        "test_binarise::test_an_images_draw_depends_on_key_and_number_alone",
    ),
    plant(
        "data/sampler.py",
        "looks = torch.tensor([step * batch_size + rank * len(indices[0]) for step in steps])",
        "looks = torch.tensor([step * batch_size for step in steps])",
        "test_binarise::test_two_processes_see_each_image_binarised_once_and_anew_at_the_next_look",
    ),
    plant(
        "data/sampler.py",
        "seen = images.stored if images.redraw else images",
        "seen = images",
        "test_binarise::test_two_processes_see_each_image_binarised_once_and_anew_at_the_next_look",
    ),
    plant(
        "data/build.py",
        "seed if cfg.binarize == 'dynamic' else cfg.split_seed",
        "seed",
        "test_binarise::test_dynamic_draws_follow_the_seed_and_fixed_ones_do_not",
    ),
    plant(
        "data/source.py",
        "rows if self.files is None else self.files.digests[rows]",
        "rows",
        "test_binarise::test_a_pictures_draw_stays_when_others_come",
    ),
    plant(
        "data/identity.py",
        "images.stored.batch(positions)",
        "images.batch(positions)",
        "test_binarise::test_the_data_stays_what_it_is",
    ),
    plant(
        "metrics/likelihood.py",
        'kind == "bce" and binarise == "no" and not are_binary(subject):',
        'kind == "bce" and binarise == "no" and False:',
        "test_binarise::test_numbers_say_which_pixels_they_are_of",
    ),
    # ---- what else is drawn, averaged, set
    plant(
        "families/deterministic.py",
        "self.decode(standard_normal((n, self.latent_dim), self.device, generator))",
        "self.decode(0.7 * standard_normal((n, self.latent_dim), self.device, generator))",
        "variants/test_aggregate::test_samples_decode_draws_of_the_prior[wae_mmd]",
    ),
    plant(
        "families/latent.py",
        "return standard_normal((n, self.latent_dim), self.device, generator)",
        "return 0.7 * standard_normal((n, self.latent_dim), self.device, generator)",
        "variants/test_aggregate::test_samples_decode_draws_of_the_prior[info]",
    ),
    plant(
        "variants/factor.py",
        '{"loss": told / 2}',
        '{"loss": told}',
        "variants/test_disentangling::test_the_critic_sees_one_half_as_it_is_and_the_other_permuted",
    ),
    plant(
        "engine/train.py",
        "mean_terms(self.evaluated, self.run.data.val,",
        "mean_terms(self.model, self.run.data.val,",
        "test_train::test_the_average_is_what_is_validated_and_left",
    ),
    plant(
        "runs.py",
        "model = trainer.evaluated",
        "model = trainer.model",
        "test_train::test_the_average_is_what_is_validated_and_left",
    ),
    plant(
        "engine/train.py",
        "max(self._epochs_done(self.best_step), self.config.warmup_epochs or 0)",
        "self._epochs_done(self.best_step)",
        "test_train::test_patience_is_over_where_it_would_have_been",
    ),
    plant(
        "engine/train.py",
        'self.best_step = progress.get("best_step", self.step)',
        "self.best_step = self.step",
        "test_train::test_patience_is_over_where_it_would_have_been",
    ),
    plant(
        "runs.py",
        "        trainer.take_best()\n",
        "",
        "test_train::test_the_best_weights_are_those_left_where_they_count",
    ),
    plant(
        "engine/validation.py",
        "model.eval()\n    progress",
        "progress",
        "test_train::test_validation_is_in_evaluation_mode",
    ),
    plant(
        "engine/optimizers.py",
        "eps=settings.eps, weight_decay=decay)\n    cls",
        "eps=settings.eps)\n    cls",
        "test_optimizers::test_every_optimizer_has_its_settings",
    ),
    plant(
        "engine/optimizers.py",
        "1 - done if config.lr_schedule",
        "1 - done**2 if config.lr_schedule",
        "test_optimizers::test_learning_rate_falls_along_a_line",
    ),
    plant(
        "data/decode.py",
        "(full[0] - part[0]) // 2, (full[1] - part[1]) // 2",
        "(full[1] - part[1]) // 2, (full[0] - part[0]) // 2",
        "test_cache::TestDecode::test_square_from_the_middle",
    ),
    plant(
        "metrics/features.py",
        ".mul(255).round().div(255)",
        ".mul(255).floor().div(255)",
        "test_features::test_extractors_see_what_a_png_would_hold",
    ),
    plant(
        "metrics/disentanglement.py",
        "test[train.argmax(axis=0),",
        "test[test.argmax(axis=0),",
        "test_metrics_disentanglement::test_classifiers_are_tested_on_other_votes_than_they_are_fitted_to",
    ),
    plant(
        "metrics/disentanglement.py",
        ".fit(*train).score(*test)",
        ".fit(*test).score(*test)",
        "test_metrics_disentanglement::test_classifiers_are_tested_on_other_votes_than_they_are_fitted_to",
    ),
    plant(
        "metrics/codebook.py",
        "used = counts > 0",
        "used = counts > 1",
        "variants/test_discrete::test_codebook_metric_counts_by_hand",
    ),
    # ---- metrics
    plant(
        "metrics/likelihood.py",
        "- math.log2(spacing)",
        "+ math.log2(spacing)",
        "test_metrics_likelihood::test_bits_per_dim_of_a_uniform_density",
    ),
    plant(
        "metrics/likelihood.py",
        "spacing = (high - low) / 255",
        "spacing = 1 / 255",
        "test_metrics_likelihood::test_bits_per_dim_row",
    ),
    plant(
        "metrics/likelihood.py",
        "-bound - kl,",
        "-bound + kl,",
        "test_metrics_likelihood::test_elbo_is_minus_distortion_and_rate",
    ),
    plant(
        "metrics/likelihood.py",
        "binarised(test, 1, subject.config.seed)",
        "binarised(test, 1, subject.config.data.split_seed)",
        "test_metrics_likelihood::test_dynamic_binarisation_follows_the_seed_and_fixed_does_not",
    ),
    plant(
        "metrics/disentanglement.py",
        "information[-1] - information[-2]",
        "information[-1] - information[0]",
        "test_metrics_disentanglement::test_the_gap_is_to_the_second_dimension_not_to_the_last",
    ),
    plant(
        "metrics/disentanglement.py",
        "np.mean((information[-1] - information[-2]) / entropies)",
        "np.mean(information[-1] - information[-2]) / np.mean(entropies)",
        "test_metrics_disentanglement::test_mig_of_a_known_gap",
    ),
    plant(
        "metrics/disentanglement.py",
        "scores[-1] - scores[-2]",
        "scores[-1] - scores[0]",
        "test_metrics_disentanglement::test_the_gap_is_to_the_second_dimension_not_to_the_last",
    ),
    plant(
        "metrics/disentanglement.py",
        "float(weights @ disentangled)",
        "float(disentangled.mean())",
        "test_metrics_disentanglement::test_dci_tells_disentanglement_from_completeness",
    ),
    plant(
        "metrics/disentanglement.py",
        "codes = codes / codes.std(axis=0)",
        "codes = codes / codes.std()",
        "test_metrics_disentanglement::test_factor_vae_score_compares_variances_with_each_dimensions_own",
    ),
    plant(
        "metrics/disentanglement.py",
        "entropy(shares, axis=1, base=shares.shape[1])",
        "entropy(shares, axis=1, base=shares.shape[0])",
        "test_metrics_disentanglement::test_dci_tells_disentanglement_from_completeness",
    ),
    plant(
        "metrics/disentanglement.py",
        "greatest * (squares.shape[1] - 1)",
        "greatest * squares.shape[1]",
        "test_metrics_disentanglement::test_modularity_of_a_known_mixture",
    ),
    plant(
        "metrics/disentanglement.py",
        "np.abs(codes[first] - codes[second]).mean(axis=1)",
        "np.abs((codes[first] - codes[second]).mean(axis=1))",
        "test_metrics_disentanglement::test_perfect_rotated_and_random_codes",
    ),
    plant(
        "metrics/latent.py",
        "ACTIVE_VARIANCE = 0.01",
        "ACTIVE_VARIANCE = 0.02",
        "test_metrics_latent::test_active_units_are_counted_by_variance",
    ),
    plant(
        "metrics/latent.py",
        "mu.var(0) > ACTIVE_VARIANCE",
        "mu.std(0) > ACTIVE_VARIANCE",
        "test_metrics_latent::test_active_units_are_counted_by_variance",
    ),
    plant(
        "metrics/latent.py",
        "(-0.5 * (distance + log_scale)).logsumexp(1)",
        "(-0.5 * distance - log_scale).logsumexp(1)",
        "test_metrics_latent::test_rate_is_mutual_information_and_marginal_kl",
        "test_metrics_latent::test_equal_posteriors_carry_nothing",
    ),
    plant(
        "metrics/fid.py",
        "centred / (len(centred) - 1) ** 0.5",
        "centred / len(centred) ** 0.5",
        "test_metrics_samples::test_the_frechet_distance_is_torchmetrics_and_pytorch_fids",
    ),
    plant(
        "metrics/fid.py",
        "eigvalsh(product @ product.T).clamp(min=0).sqrt().sum()",
        "eigvalsh(product @ product.T).clamp(min=0).sum().sqrt()",
        "test_metrics_samples::test_the_frechet_distance_of_two_gaussians",
    ),
    plant(
        "metrics/kid.py",
        "metric.update(fake.double(), real=False)",
        "metric.update(fake.double().flip(1), real=False)",
        "test_metrics_samples::test_the_kernel_distance_is_the_unbiased_double_loop",
    ),
    plant(
        "metrics/prdc.py",
        "kthvalue(K + 1, dim=1)",
        "kthvalue(K, dim=1)",
        "test_metrics_samples::test_neighbour_shares_are_those_of_a_plain_loop",
    ),
    plant(
        "metrics/prdc.py",
        "(distance < fake_radius).any(1)",
        "(distance < radius[:, None]).any(1)",
        "test_metrics_samples::test_neighbour_shares_are_those_of_a_plain_loop",
    ),
    plant(
        "metrics/reconstruction.py",
        "model.reconstruct(batch.x, batch.y), batch.x)",
        "model.generate(batch.x, batch.y), batch.x)",
        "test_metrics_reconstruction::test_each_image_is_measured_as_by_scikit_image_or_torchmetrics",
    ),
    plant(
        "metrics/samplers.py",
        "z.dtype) @ root.T",
        "z.dtype) @ root",
        "test_samplers::test_the_gaussian_has_the_aggregate_posteriors_moments",
    ),
    plant(
        "metrics/samplers.py",
        "torch.multinomial(weights, n,",
        "torch.multinomial(torch.ones_like(weights), n,",
        "test_samplers::test_the_mixture_is_recovered",
    ),
    plant(
        "metrics/samplers.py",
        "model(*batch).z.float()",
        "model(*batch).mu.float()",
        "test_samplers::test_a_point_is_a_draw_of_its_posterior_not_its_mean",
    ),
    plant(
        "metrics/samplers.py",
        "return subject.model.sample",
        "model = subject.model\n    return lambda n, y, generator: model.decode(torch.randn(n, model.image.pixels), y)",
        "test_samplers::test_the_prior_is_whatever_the_model_says",
    ),
    plant(
        "metrics/samplers.py",
        "generator = torch.Generator().manual_seed(number)",
        "generator = torch.Generator().manual_seed(0)",
        "test_samplers::test_two_ranks_draw_what_one_draws",
    ),
    plant(
        "metrics/core.py",
        "for number in sorted(merged)]",
        "for number in merged]",
        "test_metrics_likelihood::test_two_processes_score_as_one",
    ),
)


if __name__ == "__main__":
    sys.exit(main())
