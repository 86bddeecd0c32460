"""What to run next: studies that ask for trials and are told what they gave."""
