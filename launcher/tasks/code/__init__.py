"""Programs that a model wrote: the sandbox that runs them, and the task that scores them."""
