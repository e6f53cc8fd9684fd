"""Fixtures for every test: no warnings, no sockets but loopback, real PostgreSQL from the wheel."""
