SELECT view_id, source, partition_id, topic_id, beginning, state FROM positions WHERE view_id = :view_id ORDER BY source, partition_id
