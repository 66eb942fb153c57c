"""``make faults``: workers, brokers and stores broken at random from a seed, and a replay of the log to compare with at the end."""
