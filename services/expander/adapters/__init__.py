"""What touches the world: the segment's files and the kernel's locks."""
