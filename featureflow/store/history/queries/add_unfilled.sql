INSERT INTO history_unfilled (source, partition_id, fields, next_offset) VALUES (:source, :partition_id, :fields, :next_offset)
