"""``mode=watch``: each checkpoint of a training run is evaluated once, as it comes."""
