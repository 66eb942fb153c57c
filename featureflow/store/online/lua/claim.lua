-- Take a partition: put a fresh token into every record, all or none. Creates nothing.
-- KEYS: offset records, one per view version.   ARGV: token (32 hex digits), topic id.
-- Returns {'ok', record...} as they stood before, or {reason, 1-based place, record}: 'absent', 'format', 'dropped', 'dirty',
-- 'topic'.
-- Positions in a record (see record.py): token 5..36, dirty 57..76, topic id 137...
local CLEAN, DROPPED = '-0000000000000000001', '-0000000000000000002'
local token, topic = ARGV[1], ARGV[2]
if #ARGV ~= 2 or #token ~= 32 or #KEYS == 0 then
  return redis.error_reply('ERR claim: wrong arguments')
end

-- (1) check every record
local answer = {'ok'}
for i = 1, #KEYS do
  local record = redis.pcall('GET', KEYS[i])
  if not record then
    return {'absent', i, ''}
  end
  if type(record) == 'table' then          -- of another type
    return {'format', i, ''}
  end
  if #record < 136 or string.sub(record, 1, 4) ~= 'FFo2' then
    return {'format', i, record}
  end
  if string.sub(record, 57, 76) == DROPPED then
    return {'dropped', i, record}
  end
  if string.sub(record, 57, 76) ~= CLEAN then
    return {'dirty', i, record}
  end
  if string.sub(record, 137) ~= topic then
    return {'topic', i, record}
  end
  answer[i + 1] = record
end

-- (2) take them
for i = 1, #KEYS do
  redis.call('SETRANGE', KEYS[i], 4, token)
end
return answer
