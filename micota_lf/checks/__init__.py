"""What is looked at before and after the engines run: tokens, templates, budgets, merges."""
