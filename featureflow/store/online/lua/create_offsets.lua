-- Make the offset records that do not exist yet. Never touches one that does.
-- KEYS: offset records.   ARGV: one encoded record per key.   Returns the 1-based places of those made.
if #KEYS ~= #ARGV then
  return redis.error_reply('ERR create_offsets: ' .. #KEYS .. ' keys for ' .. #ARGV .. ' records')
end
local made = {}
for i = 1, #KEYS do
  if redis.call('SET', KEYS[i], ARGV[i], 'NX') then
    made[#made + 1] = i
  end
end
return made
