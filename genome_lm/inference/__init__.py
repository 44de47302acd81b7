"""Using models: embeddings and likelihoods."""
