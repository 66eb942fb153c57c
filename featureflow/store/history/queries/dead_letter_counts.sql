SELECT source, reason, COUNT(DISTINCT position) AS letters FROM ev_featureflow_dead_letters GROUP BY source, reason ORDER BY source, reason
