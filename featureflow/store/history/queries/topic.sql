SELECT source, topic, topic_id, partitions FROM topics WHERE source = :source
