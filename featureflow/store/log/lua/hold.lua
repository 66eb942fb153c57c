-- Hold a group on, or take it where nobody has it: its owner left, or died and its lease ran out.
-- KEYS[1] the group's owner   ARGV[1] the caller's name, ARGV[2] the lease in ms, ARGV[3] renew it when less than this is left
-- Returns 1 when the group is the caller's.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return 0
end
if not owner or redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
