"""What can be asked for: backbones, tasks, methods, tickets, supports, suites, claims."""
