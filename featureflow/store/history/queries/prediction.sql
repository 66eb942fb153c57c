SELECT * FROM ev_featureflow_predictions WHERE prediction_id = :prediction_id ORDER BY _partition, _offset LIMIT 1
