"""gRPC as all services use it: server, channels, deadlines, status table, tickets."""
