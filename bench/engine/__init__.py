"""How near the ranking engine comes to what the machine can do."""
