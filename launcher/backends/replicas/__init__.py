"""Several instances of another program's server behind HAProxy, started and watched by a process of their own."""
