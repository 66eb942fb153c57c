INSERT INTO history_offsets (source, partition_id, first_offset, next_offset) VALUES (:source, :partition_id, :first_offset, :next_offset)
