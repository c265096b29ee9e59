"""The load test of an endpoint: how fast it answers at rising numbers of requests in flight."""
