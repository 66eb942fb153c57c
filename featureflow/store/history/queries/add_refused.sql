INSERT INTO history_refused (source, partition_id, record_offset, timestamp_us, append_time, record_key, record_value, definition, fields)
VALUES (:source, :partition_id, :record_offset, :timestamp_us, :append_time, :record_key, :record_value, :definition, :fields)
