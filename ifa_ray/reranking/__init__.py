"""Re-ranking: from scored candidates to a slate, by MMR, DPP or learned repetition effects."""
