INSERT INTO positions (view_id, source, partition_id, topic_id, beginning, state)
VALUES (:view_id, :source, :partition_id, :topic_id, :beginning, 'planned')
