DELETE FROM history_unfilled
WHERE source = :source AND partition_id = :partition_id AND fields = :fields AND next_offset = :from_offset
