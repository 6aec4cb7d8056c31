"""What methods are compared on: the procedural world, and features of real pictures and sounds."""
