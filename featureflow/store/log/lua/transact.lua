-- Append records to several topics and move a group's offsets, or do nothing.
-- KEYS[1] the group's owner, KEYS[2] where the group stands, the other keys as ARGV counts them (from 1)
-- ARGV[1] the caller's name
-- then how many offsets, and of each: its field of KEYS[2], where it must be ('' for nowhere), where it goes
-- then how many topics, and of each: the key of its hash, its id as the caller knows it, how many streams s, and s times a partition's
-- number and the key of its stream; then how many runs of records of one stream with the same field names, and of each: which stream
-- (1..s), how many fields f, how many records n, the f names, and n times f values
-- Returns 1, or an error that begins with FENCED or TOPIC, and nothing written.
local unpack = table.unpack or unpack
local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end
if redis.call('GET', KEYS[1]) ~= take() then
  return redis.error_reply('FENCED another consumer has the group, or nobody')
end
local moves = {}
for i = 1, tonumber(take()) do
  local field, from, to = take(), take(), take()
  local stands = redis.call('HGET', KEYS[2], field) or ''
  if stands ~= from then
    return redis.error_reply('FENCED ' .. field .. ' stands at ' .. stands .. ' and not at ' .. from)
  end
  moves[i] = {field, to}
end
local time = redis.call('TIME')
local instant = string.format('-%.0f', time[1] * 1000000 + time[2])
local topics, runs = {}, {}
for t = 1, tonumber(take()) do
  local hash, id = KEYS[tonumber(take())], take()
  if redis.call('HGET', hash, 'id') ~= id then
    return redis.error_reply('TOPIC recreated or absent')
  end
  local topic = {hash = hash, streams = {}}
  for s = 1, tonumber(take()) do
    local partition, key = take(), KEYS[tonumber(take())]
    topic.streams[s] = {field = 'next:' .. partition, key = key, upcoming = tonumber(redis.call('HGET', hash, 'next:' .. partition))}
  end
  topics[t] = topic
  for _ = 1, tonumber(take()) do
    local run = {stream = topic.streams[tonumber(take())], width = tonumber(take()), count = tonumber(take())}
    run.first = at
    at = at + run.width * (run.count + 1)
    runs[#runs + 1] = run
  end
end
for _, run in ipairs(runs) do
  local fields, value = {}, run.first + run.width
  for f = 1, run.width do
    fields[2 * f - 1] = ARGV[run.first + f]
  end
  for _ = 1, run.count do
    for f = 1, run.width do
      fields[2 * f] = ARGV[value + f]
    end
    redis.call('XADD', run.stream.key, string.format('%.0f', run.stream.upcoming) .. instant, unpack(fields))
    run.stream.upcoming = run.stream.upcoming + 1
    value = value + run.width
  end
end
for _, topic in ipairs(topics) do
  for _, stream in ipairs(topic.streams) do
    redis.call('HSET', topic.hash, stream.field, string.format('%.0f', stream.upcoming))
  end
end
for _, move in ipairs(moves) do
  redis.call('HSET', KEYS[2], move[1], move[2])
end
return 1
