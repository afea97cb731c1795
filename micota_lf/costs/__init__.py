"""What a plan costs before it runs, and what a pilot measured."""
