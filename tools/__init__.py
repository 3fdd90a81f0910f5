"""Tools for developers: the local service, its engine, drift checks. Never deployed."""
