"""The OpenAI HTTP surface over any engine; every backend mounts this one."""
