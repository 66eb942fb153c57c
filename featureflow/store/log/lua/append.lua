-- Append records, giving each the next offset of its partition and the server's time.
-- KEYS[1] the topic's hash, KEYS[2..] the streams of the partitions that are written, in the order that ARGV counts them
-- ARGV[1] the topic's id as the caller knows it, ARGV[2] how many streams s, ARGV[3..2+s] their partition numbers,
-- then runs of records of one stream with the same field names: which stream (1..s), how many fields f, how many records n, the f names,
-- and n times f values
-- Returns the offset of each stream's first record, which its others follow without a gap; an error, and nothing written, when the topic
-- was recreated.
--
-- An entry's id is OFFSET-MICROSECONDS: the offset orders it, and the timestamp costs no field of its own.
local unpack = table.unpack or unpack
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
  return redis.error_reply('TOPIC recreated or absent')
end
local time = redis.call('TIME')
local instant = string.format('-%.0f', time[1] * 1000000 + time[2])
local streams = tonumber(ARGV[2])
local first, upcoming = {}, {}
for s = 1, streams do
  upcoming[s] = tonumber(redis.call('HGET', KEYS[1], 'next:' .. ARGV[2 + s]))
  first[s] = upcoming[s]
end
local at = 3 + streams
while at <= #ARGV do
  local s, width, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local fields = {}
  for f = 1, width do
    fields[2 * f - 1] = ARGV[at + 2 + f]
  end
  at = at + 3 + width
  for _ = 1, count do
    for f = 1, width do
      fields[2 * f] = ARGV[at + f - 1]
    end
    redis.call('XADD', KEYS[1 + s], string.format('%.0f', upcoming[s]) .. instant, unpack(fields))
    upcoming[s] = upcoming[s] + 1
    at = at + width
  end
end
for s = 1, streams do
  redis.call('HSET', KEYS[1], 'next:' .. ARGV[2 + s], string.format('%.0f', upcoming[s]))
end
return first
