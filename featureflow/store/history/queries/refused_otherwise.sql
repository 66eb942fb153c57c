SELECT record_offset, timestamp_us, append_time, record_key, record_value FROM history_refused
WHERE source = :source AND partition_id = :partition_id AND definition <> :definition
ORDER BY record_offset LIMIT :most
