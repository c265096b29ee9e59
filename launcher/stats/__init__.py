"""Statistics: how samples become a number, its interval, paired tests and quantiles."""
