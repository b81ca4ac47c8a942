"""What the trigger's decisions cost."""
