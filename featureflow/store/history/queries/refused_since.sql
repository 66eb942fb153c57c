SELECT record_offset, fields FROM history_refused WHERE source = :source AND partition_id = :partition_id AND fields IS NOT NULL
