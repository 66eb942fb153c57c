-- Move state and offsets of one partition, in one atom: (1) check everything, (2) mark dirty, (3) write state,
-- (4) move offsets and clear the mark. Lua is atomic but does not roll back: whatever can be refused is refused in (1),
-- and an error in (3) or (4) leaves the mark, so that no claim succeeds until the view is rebuilt.
--
-- KEYS: A offset records, A visibility streams, W state keys.
-- ARGV: token (32 hex) | to | max_time_us | A | W | entries a visibility stream keeps | from, A times | then for each state key:
--       expected bytes | header | ttl ms | n | n times (position, data);  n = -1: one whole value, '' deletes the key.
-- Offsets and times are sign and 19 digits (see record.py), compared as strings.
-- Returns {'ok', ms} or {reason, text, 0-based places...}; reasons: fenced offset dirty mismatch expired.
local CLEAN = '-0000000000000000001'
local call = redis.call
local sub = string.sub
local token, to, max_time = ARGV[1], ARGV[2], ARGV[3]
local A, W, kept = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

-- (1) check everything
if not (A and W) or A < 1 or #KEYS ~= 2 * A + W or #ARGV < 6 + A or #token ~= 32 or #to ~= 20 or #max_time ~= 20 then
  return redis.error_reply('ERR commit: wrong arguments')
end
for i = 1, A do
  local key, from = KEYS[i], ARGV[6 + i]
  local record = call('GET', key)
  if not record then
    return {'offset', key .. ' is absent'}
  end
  if #record < 116 or sub(record, 1, 4) ~= 'FFo1' then
    return redis.error_reply('ERR commit: not an offset record: ' .. key)
  end
  if sub(record, 5, 36) ~= token then
    return {'fenced', key .. ' was claimed by ' .. sub(record, 5, 36)}
  end
  if sub(record, 57, 76) ~= CLEAN then
    return {'dirty', key .. ' broke on the way to ' .. sub(record, 57, 76)}
  end
  if sub(record, 37, 56) ~= from then
    return {'offset', key .. ' is at ' .. sub(record, 37, 56) .. ', not ' .. from}
  end
  local kind = call('TYPE', KEYS[A + i]).ok
  if kind ~= 'none' and kind ~= 'stream' then
    return redis.error_reply('ERR commit: not a stream: ' .. KEYS[A + i])
  end
end

local first = {}        -- where each state key's arguments start
local expired = {'expired', 'rows were expected, their TTL has passed'}
local at = 7 + A
for w = 1, W do
  local key = KEYS[2 * A + w]
  local expected, header, n = tonumber(ARGV[at]), ARGV[at + 1], tonumber(ARGV[at + 3])
  if not (expected and n and tonumber(ARGV[at + 2])) then
    return redis.error_reply('ERR commit: wrong arguments for ' .. key)
  end
  first[w] = at
  local length = call('STRLEN', key)
  if length ~= expected then
    if length > 0 then
      return {'mismatch', key .. ' has ' .. length .. ' bytes, not ' .. expected, w - 1}
    end
    expired[#expired + 1] = w - 1
  elseif length > 0 and call('GETRANGE', key, 0, #header - 1) ~= header then
    return {'mismatch', key .. ' has another header', w - 1}
  end
  at = at + 4
  if n < 0 then
    if not ARGV[at] then
      return redis.error_reply('ERR commit: no value for ' .. key)
    end
    at = at + 1
  else
    local grown = expected
    for p = 1, n do
      local position, data = tonumber(ARGV[at]), ARGV[at + 1]
      if not (position and data) or position < 0 or position > grown or #data == 0 then
        return redis.error_reply('ERR commit: a patch leaves a hole in ' .. key)
      end
      if position + #data > grown then
        grown = position + #data
      end
      at = at + 2
    end
  end
end
if at ~= #ARGV + 1 then
  return redis.error_reply('ERR commit: ' .. #ARGV .. ' arguments, ' .. (at - 1) .. ' understood')
end
if #expired > 2 then
  return expired
end

-- (2) mark dirty
for i = 1, A do
  call('SETRANGE', KEYS[i], 56, to)
end

-- (3) write state
for w = 1, W do
  local key, a = KEYS[2 * A + w], first[w]
  local ttl, n = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  if n < 0 then
    local value = ARGV[a + 4]
    if #value == 0 then
      call('UNLINK', key)
    elseif ttl > 0 then
      call('SET', key, value, 'PX', ARGV[a + 2])
    else
      call('SET', key, value)
    end
  else
    for p = a + 4, a + 2 + 2 * n, 2 do
      call('SETRANGE', key, ARGV[p], ARGV[p + 1])
    end
    if ttl > 0 then
      call('PEXPIRE', key, ARGV[a + 2])
    end
  end
end

-- (4) move offsets, say when, and clear the mark
local now = call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local moved = to .. CLEAN .. max_time .. string.format('+%019d', ms)
for i = 1, A do
  if ARGV[6 + i] ~= to then
    call('XADD', KEYS[A + i], 'MAXLEN', '~', kept, '*', 'to', to)
  end
  call('SETRANGE', KEYS[i], 36, moved)
end
return {'ok', ms}
