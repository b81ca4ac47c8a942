"""The decisions of the trigger, pure: events in, effects out."""
