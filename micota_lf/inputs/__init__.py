"""What a recipe points to: models, tokenizers, prompt sets and benchmarks, here or on the hub."""
