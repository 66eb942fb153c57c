-- What each member has to say of something, for a while: put one's own, hear the others'.
-- KEYS: one hash, member -> 16 digits of ms, then what it said.   ARGV: member, what it says, life in ms, most others that are heard.
-- Returns what the others said. The hash goes with the last of them.
local member, value, life, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if #KEYS ~= 1 or #ARGV ~= 4 or not life or life < 1 or not most then
  return redis.error_reply('ERR share: wrong arguments')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all, others = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  if now - tonumber(string.sub(all[i + 1], 1, 16)) >= life then
    redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] ~= member then
    others[#others + 1] = string.sub(all[i + 1], 17)
  end
end
if #others < most then
  redis.call('HSET', KEYS[1], member, string.format('%016d', now) .. value)
  redis.call('PEXPIRE', KEYS[1], life)
end
return others
