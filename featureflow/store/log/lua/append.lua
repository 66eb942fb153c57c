-- Append records, giving each the next offset of its partition and the server's time.
-- KEYS[1] the topic's hash, KEYS[2..] the streams of the partitions that are written, in the order that ARGV counts them
-- ARGV[1] the topic's id as the caller knows it, ARGV[2] how many streams s, ARGV[3..2+s] their partition numbers,
-- then for each record: which stream (1..s), how many field arguments f, and f arguments (name, value, ...)
-- Returns the offset of each record, in order; an error, and nothing written, when the topic was recreated.
--
-- An entry's id is OFFSET-MICROSECONDS: the offset orders it, and the timestamp costs no field of its own.
local unpack = table.unpack or unpack
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
  return redis.error_reply('TOPIC recreated or absent')
end
local time = redis.call('TIME')
local microseconds = string.format('%.0f', time[1] * 1000000 + time[2])
local streams = tonumber(ARGV[2])
local upcoming = {}
for s = 1, streams do
  upcoming[s] = tonumber(redis.call('HGET', KEYS[1], 'next:' .. ARGV[2 + s]))
end
local offsets = {}
local at = 3 + streams
while at <= #ARGV do
  local s, fields = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local id = string.format('%.0f', upcoming[s]) .. '-' .. microseconds
  redis.call('XADD', KEYS[1 + s], id, unpack(ARGV, at + 2, at + 1 + fields))
  offsets[#offsets + 1] = upcoming[s]
  upcoming[s] = upcoming[s] + 1
  at = at + 2 + fields
end
for s = 1, streams do
  redis.call('HSET', KEYS[1], 'next:' .. ARGV[2 + s], string.format('%.0f', upcoming[s]))
end
return offsets
