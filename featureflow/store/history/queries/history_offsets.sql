SELECT partition_id, first_offset, next_offset FROM history_offsets WHERE source = :source ORDER BY partition_id
