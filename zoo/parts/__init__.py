"""What papers are made of: distributions, divergences, flows, priors, quantizers. Variants call them."""
