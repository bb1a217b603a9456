"""What this repository measures about itself, and publishes. Not part of the package."""
