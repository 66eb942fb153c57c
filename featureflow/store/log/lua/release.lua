-- Give a group up, unless a newer consumer has it.
-- KEYS[1] the group's owner   ARGV[1] the name that the caller took it under
-- Returns 1 when it was given up.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
