SELECT * FROM ev_featureflow_predictions
WHERE model = :model AND asked_at >= :from_us AND asked_at < :to_us
ORDER BY asked_at, prediction_id
