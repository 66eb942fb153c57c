-- Mark a view's offset records and delete keys of its own, in one atom: what loses the marks, a failover say, has the keys again too.
-- KEYS: offset records, then what goes, all of one bucket. ARGV: how many are offset records; the mark (see record.dropped).
-- Returns {how many were not marked before, how many went}
local marked, gone, records = 0, 0, tonumber(ARGV[1])
if #ARGV ~= 2 or #ARGV[2] ~= 136 or not records or records > #KEYS then
  return redis.error_reply('ERR drop: wrong arguments')
end
for i = 1, records do
  local record = redis.pcall('GET', KEYS[i])    -- an error where it is of another type: it is no record either
  if record and record ~= ARGV[2] then
    redis.call('SET', KEYS[i], ARGV[2])
    marked = marked + 1
  end
end
for i = records + 1, #KEYS do
  gone = gone + redis.call('UNLINK', KEYS[i])
end
return {marked, gone}
