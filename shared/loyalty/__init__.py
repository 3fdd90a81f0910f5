"""The domain of a loyalty points ledger: pure decisions, one commit."""
