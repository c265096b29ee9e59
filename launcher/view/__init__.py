"""Pages of running and finished runs, in a browser on this machine, made from the run folders alone."""
