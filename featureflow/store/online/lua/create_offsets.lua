-- Make the offset records that do not exist yet, or that were marked when their view was dropped. Never touches any other.
-- KEYS: offset records.   ARGV: one encoded record per key.   Returns the 1-based places of those made.
-- Positions in a record (see record.py): dirty 57..76.
local DROPPED = '-0000000000000000002'
if #KEYS ~= #ARGV then
  return redis.error_reply('ERR create_offsets: ' .. #KEYS .. ' keys for ' .. #ARGV .. ' records')
end
local made = {}
for i = 1, #KEYS do
  local record = redis.call('GET', KEYS[i])
  if not record or (string.sub(record, 1, 4) == 'FFo2' and string.sub(record, 57, 76) == DROPPED) then
    redis.call('SET', KEYS[i], ARGV[i])
    made[#made + 1] = i
  end
end
return made
