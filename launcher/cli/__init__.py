"""All that knows Hydra: compose, plan, errors of composition, sweeps."""
