SELECT model, number, made_at_us, document FROM releases WHERE model = :model ORDER BY number
