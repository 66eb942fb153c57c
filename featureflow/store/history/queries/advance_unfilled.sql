UPDATE history_unfilled SET next_offset = :to_offset
WHERE source = :source AND partition_id = :partition_id AND fields = :fields AND next_offset = :from_offset
