UPDATE history_refused SET definition = :definition
WHERE source = :source AND partition_id = :partition_id AND record_offset = :record_offset AND definition <> :definition
