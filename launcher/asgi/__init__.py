"""The HTTP server: uvicorn with limits, middleware, OpenAI-shaped errors and streams, for any ASGI app."""
