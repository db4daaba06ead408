"""Host networks: what is trained from scratch, and the places between layers where modules can grow."""
