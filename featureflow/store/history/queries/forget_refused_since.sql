DELETE FROM history_refused
WHERE source = :source AND partition_id = :partition_id AND record_offset = :record_offset AND fields IS NOT NULL
