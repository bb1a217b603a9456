"""Scoring: what is measured (core), by what features and samplers, and one metric, or a family, a file."""
