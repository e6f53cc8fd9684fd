"""PostgreSQL: the embedded server, the engine with the one commit, the tables, and every statement we send."""
