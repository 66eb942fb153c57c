UPDATE positions SET state = 'created' WHERE view_id = :view_id AND source = :source AND partition_id = :partition_id
