"""Studies: many runs or worlds for one question."""
