"""What variants start from: each class here is a kind of posterior with everything but the objective."""
