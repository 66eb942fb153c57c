SELECT model, number, made_at_us, document FROM releases AS one
WHERE number = (SELECT MAX(number) FROM releases AS other WHERE other.model = one.model)
ORDER BY model
