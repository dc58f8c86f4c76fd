"""Make a smaller network: filters, low rank, blocks, budgets."""
