"""Where a user's requests go, and who is there to take them. Pure: no clock, no input or output."""
