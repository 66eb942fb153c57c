UPDATE history_offsets SET next_offset = :to_offset
WHERE source = :source AND partition_id = :partition_id AND next_offset = :from_offset
