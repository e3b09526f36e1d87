"""What several protocols stand on: money, times, wake-ups for long polls, the outbox."""
