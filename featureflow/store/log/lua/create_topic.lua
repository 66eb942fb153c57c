-- Create a topic unless it exists.
-- KEYS[1] the topic's hash: id, partitions, and next:<n>, the offset that partition n's next record gets
-- ARGV[1] the new topic's id, ARGV[2] how many partitions
-- Returns 1 when it was created.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'partitions', ARGV[2])
for n = 0, tonumber(ARGV[2]) - 1 do
  redis.call('HSET', KEYS[1], 'next:' .. n, 0)
end
return 1
