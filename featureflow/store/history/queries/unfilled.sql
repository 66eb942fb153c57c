SELECT partition_id, fields, next_offset FROM history_unfilled WHERE source = :source ORDER BY partition_id
