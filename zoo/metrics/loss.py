"""The terms of a variant's own loss over test images, which every run reports."""

from __future__ import annotations

from zoo.engine.validation import average, standard_error
from zoo.metrics.core import Score, Subject, register_metric
from zoo.metrics.likelihood import drawn, elbo_score

NAMED = ("loss", "recon", "kl", "elbo")  # what a term of this name means is the same for every variant


@register_metric("loss", "the variant's own loss on test images: loss, recon, kl, elbo")
def loss(subject: Subject) -> dict[str, Score]:
    """Score the terms that mean the same for every variant, in nats per image, with every schedule at its end.

    Rows: loss, recon, kl and elbo, as far as the loss names them. Terms of the variant's own are left in
    `results.json` under "terms".
    """
    test, model = subject.data.test, subject.model
    batches = subject.terms(test)
    terms = average(batches)
    low, high = model.image.range
    likelihood = getattr(model, "likelihood", None)
    decoded = f", likelihood {likelihood.kind!r}" if likelihood is not None else ""
    given = ", given the label" if model.needs_labels else ""
    rows = {}
    for name in [name for name in terms if name in NAMED]:
        if name == "elbo":
            rows[name] = elbo_score(subject, batches)
            continue
        protocol = f"pixels in [{low:g}, {high:g}]{decoded}{given}; one posterior sample per image"
        protocol += "; as the training loss has it"
        protocol += f"; {drawn(subject)}" if drawn(subject) else ""
        if name in model.batch_terms:
            protocol += f"; over batches of {subject.config.eval_batch_size}"
        se = None if name in model.batch_terms else standard_error(batches, {name: 1})
        rows[name] = Score(terms[name], "nats", None, protocol, len(test), se=se)
    subject.notes["terms"] = {name: value for name, value in terms.items() if name not in NAMED}
    return rows
