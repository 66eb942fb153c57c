INSERT INTO topics (source, topic, topic_id, partitions) VALUES (:source, :topic, :topic_id, :partitions)
