"""The dataclasses of ``conf/`` that are no option with code, and the registry of components."""
